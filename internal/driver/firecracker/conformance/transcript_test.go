package conformance

import (
	"fmt"
	"strings"
	"testing"
)

// TestTranscript shows a machine's life on the wire: go test -v -run Transcript.
func TestTranscript(t *testing.T) {
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			v := start(t, p.path(t))
			var b strings.Builder
			for _, s := range []step{
				{method: "GET", path: "/"},
				{method: "PUT", path: "/machine-config", body: `{"vcpu_count":2,"mem_size_mib":256}`},
				{method: "PUT", path: "/boot-source", body: `{"kernel_image_path":"{kernel}","initrd_path":"{initrd}","boot_args":"console=ttyS0 reboot=k panic=-1 SECRET"}`},
				{method: "PUT", path: "/drives/root", body: `{"drive_id":"root","is_root_device":false,"is_read_only":false,"path_on_host":"{disk}"}`},
				{method: "PUT", path: "/vsock", body: `{"guest_cid":3,"uds_path":"{dir}/vsock"}`},
				{method: "PUT", path: "/entropy", body: `{}`},
				{method: "PUT", path: "/machine-config", body: `{"vcpu_count":"two"}`},
				{method: "PUT", path: "/actions", body: `{"action_type":"InstanceStart"}`},
				{method: "GET", path: "/"},
				{method: "GET", path: "/vm/config"},
				{method: "PUT", path: "/actions", body: `{"action_type":"SendCtrlAltDel"}`},
			} {
				a := v.ask(s.method, s.path, s.body)
				fmt.Fprintf(&b, "> %s %s %s\n< %d %s\n", s.method, s.path, s.body, a.status, a.body)
			}
			t.Logf("\n%s", strings.ReplaceAll(b.String(), v.dir, "."))
			if v.errors.Len() > 0 {
				t.Error(v.errors)
			}
		})
	}
}
