// Package conformance runs the conformance suite of the Gateway API against Weir, as it was released and with nothing left out.
//
// The API server is the real one. Nodes are what it lacks: Pods run here as processes, each in a network of its own (pods_test.go). All of
// it wants a network namespace to itself; `cargo xtask test-kubernetes` makes one.
package conformance

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/config"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

const (
	class      = "weir"
	controller = "megaease.com/gateway-controller"
)

var profiles = []suite.ConformanceProfileName{
	suite.GatewayHTTPConformanceProfileName,
	suite.GatewayGRPCConformanceProfileName,
	suite.GatewayTLSConformanceProfileName,
	suite.GatewayTCPConformanceProfileName,
	suite.GatewayUDPConformanceProfileName,
}

func TestMain(m *testing.M) {
	// Of the one Pod that is no echo server.
	if os.Getenv(nameServer) != "" {
		serveNames()
		return
	}
	log.SetLogger(zap.New(zap.WriteTo(os.Stdout)))
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	cluster := startCluster(t)
	startPods(t, cluster)
	startWeir(t, cluster)

	c, err := client.New(cluster.config, client.Options{})
	require.NoError(t, err)
	require.NoError(t, v1.Install(c.Scheme()))
	require.NoError(t, apiextensionsv1.AddToScheme(c.Scheme()))
	set, err := kubernetes.NewForConfig(cluster.config)
	require.NoError(t, err)
	// What is claimed is what the controller says of the class.
	gatewayClass := v1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Spec: v1.GatewayClassSpec{ControllerName: controller}}
	require.NoError(t, c.Create(context.Background(), &gatewayClass))
	eventually(t, "the class has features", func() error {
		if err := c.Get(context.Background(), client.ObjectKey{Name: class}, &gatewayClass); err != nil {
			return err
		}
		if len(gatewayClass.Status.SupportedFeatures) == 0 {
			return os.ErrNotExist
		}
		return nil
	})
	timeouts := config.DefaultTimeoutConfig()
	// Everything is on one machine, which may have other things to do.
	timeouts.MaxTimeToConsistency = patience(60 * time.Second)
	timeouts.DefaultTestTimeout = patience(120 * time.Second)
	options := suite.ConformanceOptions{
		Client:     c,
		Clientset:  set,
		RestConfig: cluster.config,
		ManifestFS: []fs.FS{&conformance.Manifests},
	}
	if wanted := os.Getenv("PATIENCE"); wanted != "" {
		for _, timeout := range []*time.Duration{&timeouts.GatewayMustHaveAddress, &timeouts.GatewayMustHaveCondition,
			&timeouts.GatewayStatusMustHaveListeners, &timeouts.GatewayListenersMustHaveConditions, &timeouts.HTTPRouteMustNotHaveParents,
			&timeouts.HTTPRouteMustHaveCondition, &timeouts.TLSRouteMustHaveCondition, &timeouts.TCPRouteMustHaveCondition,
			&timeouts.UDPRouteMustHaveCondition, &timeouts.RouteMustHaveParents, &timeouts.LatestObservedGenerationSet,
			&timeouts.ListenerSetMustHaveCondition, &timeouts.ListenerSetListenersMustHaveConditions} {
			*timeout = patience(*timeout)
		}
	}
	options.ConfigurableOptions = suite.ConfigurableOptions{
		GatewayClassName:     class,
		CleanupTestResources: true,
		TimeoutConfig:        timeouts,
		ConformanceProfiles:  profiles,
		ReportOutputPath:     os.Getenv("REPORT"),
		Implementation: confv1.Implementation{
			Organization: os.Getenv("ORGANIZATION"), Project: "weir", Version: os.Getenv("WEIR_VERSION"),
			URL: os.Getenv("URL"), Contact: []string{os.Getenv("CONTACT")},
		},
		UsableNetworkAddresses:   []v1.GatewaySpecAddress{{Type: new(v1.IPAddressType), Value: usable}},
		UnusableNetworkAddresses: []v1.GatewaySpecAddress{{Type: new(v1.IPAddressType), Value: unusable}},
	}
	// For one part while it is worked on: features beside those that are claimed.
	for feature := range strings.SplitSeq(os.Getenv("FEATURES"), ",") {
		if feature != "" {
			options.SupportedFeatures = append(options.SupportedFeatures, features.FeatureName(feature))
		}
	}
	if len(options.SupportedFeatures) > 0 {
		for _, feature := range gatewayClass.Status.SupportedFeatures {
			options.SupportedFeatures = append(options.SupportedFeatures, features.FeatureName(feature.Name))
		}
	}
	conformance.RunConformanceWithOptions(t, options)
}

// patience is how long something may take; less where somebody waits for it.
func patience(most time.Duration) time.Duration {
	if wanted, err := time.ParseDuration(os.Getenv("PATIENCE")); err == nil {
		return wanted
	}
	return most
}

func eventually(t *testing.T, what string, done func() error) {
	t.Helper()
	until := time.Now().Add(3 * time.Minute)
	for {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// tool is a program of target/tools/kubernetes, or one that stands elsewhere.
func tool(name, variable string) string {
	if path := os.Getenv(variable); path != "" {
		return path
	}
	return filepath.Join(os.Getenv("TOOLS"), name)
}
