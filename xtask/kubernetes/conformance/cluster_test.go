package conformance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

const (
	// The last that a Gateway would be given: nobody has it before it is asked for.
	usable = "10.78.0.250"
	// In no network at all (RFC 5737).
	unusable = "192.0.2.99"
	gateways = 60
	here     = "10.77.255.254"
	admin    = "the-token-of-the-administrator"
)

// cluster is an API server over etcd, with the definitions of the Gateway API.
type cluster struct {
	folder string
	config *rest.Config
}

func startCluster(t *testing.T) *cluster {
	network(t)
	c := &cluster{folder: t.TempDir()}
	place := func(name string) string { return filepath.Join(c.folder, name) }
	require.NoError(t, os.WriteFile(place("tokens.csv"), []byte(admin+",admin,admin,system:masters\n"), 0o600))
	accounts := exec.Command("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", place("accounts.key"))
	require.NoError(t, accounts.Run())
	start(t, place("etcd.log"), exec.Command(tool("etcd", "ETCD"), "--data-dir", place("etcd"), "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2378", "--initial-advertise-peer-urls", "http://127.0.0.1:2378",
		"--initial-cluster", "default=http://127.0.0.1:2378"))
	eventually(t, "etcd listens", func() error {
		socket, err := net.Dial("tcp", "127.0.0.1:2379")
		if err == nil {
			socket.Close()
		}
		return err
	})
	start(t, place("api.log"), exec.Command(tool("kube-apiserver", "KUBE_APISERVER"), "--etcd-servers=http://127.0.0.1:2379",
		"--secure-port=6443", "--bind-address=127.0.0.1", "--advertise-address="+here, "--cert-dir="+place("certificates"),
		"--service-account-key-file="+place("accounts.key"), "--service-account-signing-key-file="+place("accounts.key"),
		"--service-account-issuer=https://kubernetes.test", "--token-auth-file="+place("tokens.csv"),
		"--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/16", "--authorization-mode=RBAC",
		"--disable-admission-plugins=ServiceAccount", "--etcd-compaction-interval=0s", "--profiling=false"))
	authority := place("certificates/apiserver.crt")
	eventually(t, "the API server has a certificate", func() error { _, err := os.Stat(authority); return err })
	kube := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: %s}}]
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:6443', certificate-authority: %s}}]
`, admin, authority)
	require.NoError(t, os.WriteFile(place("config"), []byte(kube), 0o600))
	config, err := clientcmd.BuildConfigFromFlags("", place("config"))
	require.NoError(t, err)
	config.QPS, config.Burst = 500, 1000
	c.config = config
	c.definitions(t)
	return c
}

// network makes addresses for Gateways and a bridge for Pods.
func network(t *testing.T) {
	var lines strings.Builder
	lines.WriteString("link set lo up\nlink add pods type bridge\nlink set pods up\naddr add " + here + "/16 dev pods\n")
	for n := 1; n <= gateways; n++ {
		fmt.Fprintf(&lines, "addr add 10.78.0.%d/32 dev lo\n", n)
	}
	lines.WriteString("addr add " + usable + "/32 dev lo\n")
	ip := exec.Command("ip", "-batch", "-")
	ip.Stdin = strings.NewReader(lines.String())
	said, err := ip.CombinedOutput()
	require.NoErrorf(t, err, "this wants a network namespace to itself, which cargo xtask test-kubernetes makes: %s", said)
}

func (c *cluster) definitions(t *testing.T) {
	set, err := apiextensions.NewForConfig(c.config)
	require.NoError(t, err)
	ctx := context.Background()
	eventually(t, "the API server is ready", func() error {
		return set.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	files, err := filepath.Glob(filepath.Join(os.Getenv("DEFINITIONS"), "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "no definitions in %s", os.Getenv("DEFINITIONS"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var definition apiextensionsv1.CustomResourceDefinition
		require.NoError(t, yaml.Unmarshal(text, &definition))
		if definition.Kind != "CustomResourceDefinition" {
			continue
		}
		_, err = set.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, &definition, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	eventually(t, "the Gateway API is served", func() error {
		return set.RESTClient().Get().AbsPath("/apis/gateway.networking.k8s.io/v1/udproutes").Do(ctx).Error()
	})
}

// start runs a program until the test ends.
func start(t *testing.T, log string, command *exec.Cmd) {
	file, err := os.Create(log)
	require.NoError(t, err)
	command.Stdout, command.Stderr = file, file
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, command.Start())
	ended := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		select {
		case <-ended:
			t.Errorf("%s ended by itself: %s", command.Path, last(log))
		default:
			_ = command.Process.Kill()
			<-ended
		}
	})
}

// last is the end of a log.
func last(log string) string {
	text, _ := os.ReadFile(log)
	return string(text[max(0, len(text)-4000):])
}

func startWeir(t *testing.T, c *cluster) {
	var document strings.Builder
	fmt.Fprintf(&document, "kind: GatewayController\nname: gateway\nkubeConfig: %s\naddresses:\n", filepath.Join(c.folder, "config"))
	for n := 1; n <= gateways; n++ {
		fmt.Fprintf(&document, "- 10.78.0.%d\n", n)
	}
	fmt.Fprintf(&document, "- %s\n", usable)
	objects := filepath.Join(c.folder, "objects.yaml")
	require.NoError(t, os.WriteFile(objects, []byte(document.String()), 0o600))
	log := filepath.Join(c.folder, "weir.log")
	if wanted := os.Getenv("WEIR_LOG"); wanted != "" {
		log = wanted
	}
	start(t, log, exec.Command(os.Getenv("WEIR"), "run", "--name", "one", "--data-dir", filepath.Join(c.folder, "data"),
		"--home-dir", c.folder, "--api-addr", "127.0.0.1:2381", "--initial-object-config-files", objects))
	eventually(t, "weir is ready", func() error {
		answer, err := http.Get("http://127.0.0.1:2381/apis/v2/healthz")
		if err == nil {
			answer.Body.Close()
		}
		return err
	})
}
