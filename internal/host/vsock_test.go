package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVSockUsable(t *testing.T) {
	dir := t.TempDir()
	device := filepath.Join(dir, "vhost-vsock")
	if ok, why, cure := (Host{VHostVSock: device}).VSockUsable(); ok || !strings.Contains(why, "does not exist") || cure != "modprobe vhost_vsock" {
		t.Errorf("%v, %s, %s", ok, why, cure)
	}
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if ok, why, cure := (Host{VHostVSock: device}).VSockUsable(); !ok || why != "" || cure != "" {
		t.Errorf("%v, %s, %s", ok, why, cure)
	}
	if ok, why, _ := (Host{VHostVSock: dir}).VSockUsable(); ok || why == "" {
		t.Errorf("a directory: %v, %s", ok, why)
	}
	if os.Geteuid() == 0 {
		return // may open all
	}
	if err := os.Chmod(device, 0); err != nil {
		t.Fatal(err)
	}
	if ok, why, cure := (Host{VHostVSock: device}).VSockUsable(); ok || !strings.Contains(why, "may not open") || !strings.Contains(cure, "group") {
		t.Errorf("%v, %s, %s", ok, why, cure)
	}
}
