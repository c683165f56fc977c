package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Share is a directory of the host that the guest can mount.
type Share struct {
	Source string `json:"source"`
	Tag    string `json:"tag"`
	// MountPoint is where the guest mounts it by itself; empty: it does not.
	MountPoint string `json:"mount_point,omitempty"`
	ReadOnly   bool   `json:"read_only,omitempty"`
	// Protocol is virtiofs, with Cache, or 9p, with Security; see package spec.
	Protocol string `json:"protocol"`
	Cache    string `json:"cache,omitempty"`
	Security string `json:"security,omitempty"`
	// Socket is where somebody else serves it; empty: a program of the host's does,
	// which Ampoule has started.
	Socket string `json:"socket,omitempty"`
	From   string `json:"from"`
}

// ShareRoot is the directory in which each share has one that a program of the
// host's serves.
const ShareRoot = "/run/ampoule/share"

// ShareDirectory is the directory of a share, which is root's. The socket s in it
// is where the hypervisor finds whoever serves the share, and what is to be served
// is at d. The longest names of VM and tag leave room for it in an address, which
// has 107 bytes.
func ShareDirectory(vm, tag string) string { return path.Join(ShareRoot, vm+"@"+tag) }

// ShareSocket is the socket in it.
func ShareSocket(vm, tag string) string { return ShareDirectory(vm, tag) + "/s" }

// Served are the shares that Ampoule has a program of the host's serve over a socket.
func (vm *VM) Served() []Share {
	var out []Share
	for _, s := range vm.Shares {
		if s.Protocol == spec.VirtioFS && s.Socket == "" {
			out = append(out, s)
		}
	}
	return out
}

// Share returns the one with that tag.
func (vm *VM) Share(tag string) (Share, bool) {
	i := slices.IndexFunc(vm.Shares, func(s Share) bool { return s.Tag == tag })
	if i < 0 {
		return Share{}, false
	}
	return vm.Shares[i], true
}

// checkShares refuses what no line comes to. A tag becomes part of paths and of
// the names of units.
func checkShares(vm *VM) error {
	for i, s := range vm.Shares {
		at := fmt.Sprintf("vm.shares[%d]", i)
		if _, twice := (&VM{Shares: vm.Shares[:i]}).Share(s.Tag); twice {
			return fmt.Errorf("%s: another share has the same tag", at)
		}
		line := share(s)
		if again, err := spec.ParseShare(line); err != nil || share(Share{
			Source: again.Source, Tag: again.Tag, MountPoint: again.MountPoint, ReadOnly: again.ReadOnly, Protocol: again.Protocol, Cache: again.Cache, Security: again.Security, Socket: again.Socket,
		}) != line {
			return fmt.Errorf("%s: no line of a file comes to this share", at)
		}
	}
	return nil
}

// share writes a share as a line has it.
func share(s Share) string {
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`)
	fields := []string{escape.Replace(s.Source), s.Tag}
	if s.MountPoint != "" {
		fields = append(fields, escape.Replace(s.MountPoint))
	}
	options := []string{"rw", s.Protocol}
	if s.ReadOnly {
		options[0] = "ro"
	}
	if s.Cache != "" {
		options = append(options, "cache="+s.Cache)
	}
	if s.Security != "" {
		options = append(options, "security="+s.Security)
	}
	if s.Socket != "" {
		options = append(options, "socket="+escape.Replace(s.Socket))
	}
	return strings.Join(append(fields, strings.Join(options, ",")), ":")
}
