// Runs one pod through the Container Runtime Interface as a kubelet does: a sandbox in the host's
// network, a container in it, a command there, other limits, figures, and the end of all.
//
// usage: pod SOCKET HANDLER IMAGE CGROUP     prints what it saw, a line each
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func run(socket, handler, image, cgroup string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)

	status, err := client.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return fmt.Errorf("Status: %w", err)
	}
	for _, known := range status.RuntimeHandlers {
		if known.Name == handler && known.Features != nil {
			fmt.Println("recursive read-only:", known.Features.RecursiveReadOnlyMounts)
			fmt.Println("user namespaces:", known.Features.UserNamespaces)
		}
	}

	host := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}
	sandbox := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "1"},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    cgroup,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: host},
		},
	}
	pod, err := client.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: sandbox, RuntimeHandler: handler})
	if err != nil {
		return fmt.Errorf("RunPodSandbox: %w", err)
	}
	defer client.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
	made, err := client.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId:  pod.PodSandboxId,
		SandboxConfig: sandbox,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "box"},
			Image:    &cri.ImageSpec{Image: image},
			Command:  []string{"sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"},
			Linux: &cri.LinuxContainerConfig{
				Resources:       &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 50000},
				SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: host},
			},
		},
	})
	if err != nil {
		return fmt.Errorf("CreateContainer: %w", err)
	}
	id := made.ContainerId
	if _, err = client.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("StartContainer: %w", err)
	}
	command := []string{"sh", "-c", "echo inside; exit 5"}
	out, err := client.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: 20})
	if err != nil {
		return fmt.Errorf("ExecSync: %w", err)
	}
	fmt.Printf("exec: %d %s", out.ExitCode, out.Stdout)
	resources := &cri.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuPeriod: 100000, CpuQuota: 25000}
	_, err = client.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: resources})
	if err != nil {
		return fmt.Errorf("UpdateContainerResources: %w", err)
	}
	stats, err := client.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		return fmt.Errorf("ContainerStats: %w", err)
	}
	fmt.Println("memory in use:", stats.Stats.GetMemory().GetWorkingSetBytes().GetValue() > 0)
	if _, err = client.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 20}); err != nil {
		return fmt.Errorf("StopContainer: %w", err)
	}
	seen, err := client.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return fmt.Errorf("ContainerStatus: %w", err)
	}
	fmt.Println("ended:", seen.Status.State, seen.Status.ExitCode)
	if _, err = client.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId}); err != nil {
		return fmt.Errorf("StopPodSandbox: %w", err)
	}
	return nil
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: pod SOCKET HANDLER IMAGE CGROUP")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "pod:", err)
		os.Exit(1)
	}
}
