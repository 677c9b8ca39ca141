// Changes the limits of a running task through containerd's own interface, as kubelets and
// Docker do: ctr has no command for it.
//
// usage: task-update ID RESOURCES     RESOURCES: linux.resources of config.json
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func update(id, text string) error {
	var resources specs.LinuxResources
	if err := json.Unmarshal([]byte(text), &resources); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ctx = namespaces.WithNamespace(ctx, "default")
	client, err := containerd.New("/run/containerd/containerd.sock")
	if err != nil {
		return err
	}
	defer client.Close()
	container, err := client.LoadContainer(ctx, id)
	if err != nil {
		return err
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return err
	}
	return task.Update(ctx, containerd.WithResources(&resources))
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: task-update ID RESOURCES")
		os.Exit(2)
	}
	if err := update(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "task-update:", err)
		os.Exit(1)
	}
}
