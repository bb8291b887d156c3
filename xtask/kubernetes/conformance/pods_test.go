package conformance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
)

const (
	node       = "node"
	nameServer = "CONFORMANCE_NAME_SERVER"
	// Of what is made here: Pods of Deployments, and EndpointSlices of Services.
	madeFor = "weir.invalid/made-for"
)

// pods is what a cluster has nodes and their controllers for: Pods of Deployments that run, EndpointSlices of Services, and logs.
type pods struct {
	set    kubernetes.Interface
	folder string
	lock   sync.Mutex
	run    map[string]*pod
	slices map[string]*discoveryv1.EndpointSlice
	next   int
}

// pod is a process in a network of its own.
type pod struct {
	uid     string
	address string
	process *exec.Cmd
	lock    sync.Mutex
	lines   []line
	ready   bool
}

type line struct {
	at   time.Time
	text string
}

func startPods(t *testing.T, c *cluster) {
	set, err := kubernetes.NewForConfig(c.config)
	require.NoError(t, err)
	p := &pods{set: set, folder: c.folder, run: map[string]*pod{}, slices: map[string]*discoveryv1.EndpointSlice{}}
	ctx, stop := context.WithCancel(context.Background())
	kubelet := httptest.NewTLSServer(http.HandlerFunc(p.logs))
	_, port, err := net.SplitHostPort(kubelet.Listener.Addr().String())
	require.NoError(t, err)
	machine := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
	_, err = set.CoreV1().Nodes().Create(ctx, &machine, metav1.CreateOptions{})
	require.NoError(t, err)
	status := fmt.Sprintf(`{"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
		"daemonEndpoints": {"kubeletEndpoint": {"Port": %s}}}}`, port)
	_, err = set.CoreV1().Nodes().Patch(ctx, node, "application/merge-patch+json", []byte(status), metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if err := p.turn(ctx); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "pods:", err)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
		kubelet.Close()
		for _, pod := range p.run {
			pod.kill()
		}
	})
}

// turn brings everything a step nearer to what is asked for.
func (p *pods) turn(ctx context.Context) error {
	cached := metav1.ListOptions{ResourceVersion: "0"}
	deployments, err := p.set.AppsV1().Deployments("").List(ctx, cached)
	if err != nil {
		return err
	}
	known, err := p.set.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	there := map[string]*corev1.Pod{}
	for n := range known.Items {
		one := &known.Items[n]
		there[one.Namespace+"/"+one.Name] = one
	}
	wanted := map[string]bool{}
	for _, deployment := range deployments.Items {
		replicas := 1
		if deployment.Spec.Replicas != nil {
			replicas = int(*deployment.Spec.Replicas)
		}
		for n := range replicas {
			// As Kubernetes calls them: two words more than the Deployment has.
			name := fmt.Sprintf("%s-6b7d8f9c5-pod%02d", deployment.Name, n)
			owner := string(deployment.UID)
			wanted[deployment.Namespace+"/"+name+owner] = true
			if there[deployment.Namespace+"/"+name] != nil {
				continue
			}
			one := corev1.Pod{ObjectMeta: *deployment.Spec.Template.ObjectMeta.DeepCopy(), Spec: *deployment.Spec.Template.Spec.DeepCopy()}
			one.Name, one.Namespace, one.Spec.NodeName = name, deployment.Namespace, node
			one.Annotations = map[string]string{madeFor: owner}
			if _, err := p.set.CoreV1().Pods(deployment.Namespace).Create(ctx, &one, metav1.CreateOptions{}); err != nil {
				return err
			}
		}
	}
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	running := map[string]bool{}
	for key, one := range there {
		owner := one.Annotations[madeFor]
		if owner == "" {
			continue
		}
		if !wanted[key+owner] || one.DeletionTimestamp != nil {
			_ = p.set.CoreV1().Pods(one.Namespace).Delete(ctx, one.Name, now)
			continue
		}
		running[string(one.UID)] = true
		if err := p.runs(ctx, one); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	p.lock.Lock()
	for key, pod := range p.run {
		if !running[pod.uid] {
			pod.kill()
			delete(p.run, key)
		}
	}
	p.lock.Unlock()
	return p.services(ctx, known.Items)
}

// runs starts a Pod, and says that it is ready once it is.
func (p *pods) runs(ctx context.Context, one *corev1.Pod) error {
	key := one.Namespace + "/" + one.Name
	p.lock.Lock()
	running := p.run[key]
	p.lock.Unlock()
	if running != nil && running.uid != string(one.UID) {
		running.kill()
		running = nil
	}
	if running == nil {
		started, err := p.start(ctx, one)
		if err != nil || started == nil {
			return err
		}
		p.lock.Lock()
		p.run[key] = started
		p.lock.Unlock()
		running = started
	}
	if running.ready {
		return nil
	}
	if !running.listens(one) {
		return nil
	}
	running.ready = true
	since := metav1.Now()
	one.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, HostIP: here, PodIP: running.address, PodIPs: []corev1.PodIP{{IP: running.address}}, StartTime: &since,
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		condition := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: since}
		one.Status.Conditions = append(one.Status.Conditions, condition)
	}
	_, err := p.set.CoreV1().Pods(one.Namespace).UpdateStatus(ctx, one, metav1.UpdateOptions{})
	return err
}

// content is what a volume of a Pod is filled with, by the names of its files, and whether it is there yet. Others than these the suite
// does not use.
func (p *pods) content(ctx context.Context, namespace string, volume corev1.Volume) (map[string][]byte, bool) {
	data, items := map[string][]byte{}, []corev1.KeyToPath{}
	switch {
	case volume.Secret != nil:
		secret, err := p.set.CoreV1().Secrets(namespace).Get(ctx, volume.Secret.SecretName, metav1.GetOptions{})
		if err != nil {
			return nil, false
		}
		data, items = secret.Data, volume.Secret.Items
	case volume.ConfigMap != nil:
		of, err := p.set.CoreV1().ConfigMaps(namespace).Get(ctx, volume.ConfigMap.Name, metav1.GetOptions{})
		if err != nil {
			return nil, false
		}
		for key, text := range of.Data {
			data[key] = []byte(text)
		}
		items = volume.ConfigMap.Items
	}
	if len(items) == 0 {
		return data, true
	}
	files := map[string][]byte{}
	for _, item := range items {
		files[item.Path] = data[item.Key]
	}
	return files, true
}

// start gives a Pod a network and runs its container's program there. None where something of its is still to come.
func (p *pods) start(ctx context.Context, one *corev1.Pod) (*pod, error) {
	container := one.Spec.Containers[0]
	program := tool("echo-basic", "ECHO_BASIC")
	environment := []string{"PATH=" + os.Getenv("PATH")}
	if strings.Contains(container.Image, "coredns") {
		program = os.Args[0]
		environment = append(environment, nameServer+"=1")
	}
	folders := map[string]string{}
	for _, volume := range one.Spec.Volumes {
		files, there := p.content(ctx, one.Namespace, volume)
		if !there {
			return nil, nil
		}
		folder := filepath.Join(p.folder, "volumes", string(one.UID), volume.Name)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
				return nil, err
			}
		}
		for _, mount := range container.VolumeMounts {
			if mount.Name == volume.Name {
				folders[mount.MountPath] = folder
			}
		}
	}
	for _, variable := range container.Env {
		value := variable.Value
		if variable.ValueFrom != nil && variable.ValueFrom.FieldRef != nil {
			value = map[string]string{"metadata.name": one.Name, "metadata.namespace": one.Namespace}[variable.ValueFrom.FieldRef.FieldPath]
		}
		for mounted, folder := range folders {
			if rest, found := strings.CutPrefix(value, mounted); found {
				value = folder + rest
			}
		}
		environment = append(environment, variable.Name+"="+value)
	}
	p.next++
	running := &pod{uid: string(one.UID), address: fmt.Sprintf("10.77.%d.%d", p.next/250, p.next%250+1)}
	command := exec.Command(program)
	command.Env = environment
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	output, writer := io.Pipe()
	command.Stdout, command.Stderr = writer, writer
	if err := command.Start(); err != nil {
		return nil, err
	}
	running.process = command
	go running.keep(output)
	go func() {
		_ = command.Wait()
		writer.Close()
	}()
	link, id := fmt.Sprintf("pod%d", p.next), fmt.Sprint(command.Process.Pid)
	for _, words := range [][]string{
		{"ip", "link", "add", link, "master", "pods", "type", "veth", "peer", "name", "eth0", "netns", id},
		{"ip", "link", "set", link, "up"},
		{"nsenter", "-t", id, "-n", "ip", "link", "set", "lo", "up"},
		{"nsenter", "-t", id, "-n", "ip", "addr", "add", running.address + "/16", "dev", "eth0"},
		{"nsenter", "-t", id, "-n", "ip", "link", "set", "eth0", "up"},
		{"nsenter", "-t", id, "-n", "ip", "route", "add", "default", "via", here},
	} {
		if said, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			running.kill()
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, said)
		}
	}
	return running, nil
}

// listens asks a program that speaks TCP; of others nothing can be known.
func (pod *pod) listens(one *corev1.Pod) bool {
	for _, variable := range one.Spec.Containers[0].Env {
		if variable.Name == "UDP_ECHO_SERVER" {
			return true
		}
	}
	port := "3000"
	if strings.Contains(one.Spec.Containers[0].Image, "coredns") {
		port = "53"
	}
	socket, err := net.DialTimeout("tcp", net.JoinHostPort(pod.address, port), time.Second)
	if err != nil {
		return false
	}
	socket.Close()
	return true
}

func (pod *pod) kill() {
	_ = pod.process.Process.Kill()
}

func (pod *pod) keep(output io.Reader) {
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		pod.lock.Lock()
		pod.lines = append(pod.lines, line{time.Now(), lines.Text()})
		if len(pod.lines) > linesKept {
			pod.lines = pod.lines[linesKept/2:]
		}
		pod.lock.Unlock()
	}
}

const linesKept = 20000

// logs answers as a kubelet does: /containerLogs/NAMESPACE/POD/CONTAINER?sinceTime=…
func (p *pods) logs(answer http.ResponseWriter, request *http.Request) {
	parts := strings.Split(strings.TrimPrefix(request.URL.Path, "/containerLogs/"), "/")
	if len(parts) != 3 {
		http.NotFound(answer, request)
		return
	}
	p.lock.Lock()
	pod := p.run[parts[0]+"/"+parts[1]]
	p.lock.Unlock()
	if pod == nil {
		http.NotFound(answer, request)
		return
	}
	since, _ := time.Parse(time.RFC3339, request.URL.Query().Get("sinceTime"))
	pod.lock.Lock()
	defer pod.lock.Unlock()
	for _, line := range pod.lines {
		if line.at.After(since) {
			fmt.Fprintln(answer, line.text)
		}
	}
}

// services writes the EndpointSlices of Services that have a selector.
func (p *pods) services(ctx context.Context, known []corev1.Pod) error {
	services, err := p.set.CoreV1().Services("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, service := range services.Items {
		if len(service.Spec.Selector) == 0 {
			continue
		}
		key := service.Namespace + "/" + service.Name
		there[key] = true
		slice := slice(&service, known)
		before := p.slices[key]
		if before != nil && reflect.DeepEqual(before, slice) {
			continue
		}
		of := p.set.DiscoveryV1().EndpointSlices(service.Namespace)
		if before == nil {
			_, err = of.Create(ctx, slice, metav1.CreateOptions{})
		} else {
			_, err = of.Update(ctx, slice, metav1.UpdateOptions{})
		}
		if err != nil {
			return err
		}
		p.slices[key] = slice
	}
	for key, slice := range p.slices {
		if !there[key] {
			_ = p.set.DiscoveryV1().EndpointSlices(slice.Namespace).Delete(ctx, slice.Name, metav1.DeleteOptions{})
			delete(p.slices, key)
		}
	}
	return nil
}

func slice(service *corev1.Service, known []corev1.Pod) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	slice.Name, slice.Namespace = service.Name+"-pods", service.Namespace
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: service.Name, discoveryv1.LabelManagedBy: "weir.invalid"}
	for _, port := range service.Spec.Ports {
		number := port.TargetPort.IntVal
		if number == 0 {
			number = port.Port
		}
		slice.Ports = append(slice.Ports,
			discoveryv1.EndpointPort{Name: &port.Name, Port: &number, Protocol: &port.Protocol, AppProtocol: port.AppProtocol})
	}
	selector := labels.SelectorFromSet(service.Spec.Selector)
	for _, pod := range known {
		ready := false
		for _, condition := range pod.Status.Conditions {
			ready = ready || condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
		}
		if pod.Namespace == service.Namespace && ready && pod.DeletionTimestamp == nil && selector.Matches(labels.Set(pod.Labels)) {
			endpoint := discoveryv1.Endpoint{Addresses: []string{pod.Status.PodIP}}
			endpoint.Conditions.Ready = &ready
			slice.Endpoints = append(slice.Endpoints, endpoint)
		}
	}
	return slice
}

// serveNames answers for foo.bar.com, which is all that the suite asks its name server.
func serveNames() {
	handler := dns.HandlerFunc(func(writer dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg)
		answer.SetReply(question)
		_ = writer.WriteMsg(answer)
	})
	go func() { _ = (&dns.Server{Addr: ":53", Net: "tcp", Handler: handler}).ListenAndServe() }()
	fmt.Println((&dns.Server{Addr: ":53", Net: "udp", Handler: handler}).ListenAndServe())
}
