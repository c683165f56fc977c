package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/layer"
)

// Share is one Share= line: a directory of the host that the guest can mount.
type Share struct {
	// Source is the absolute path of the directory.
	Source string
	// Tag is the name by which the guest mounts it.
	Tag string
	// MountPoint is where the guest mounts it by itself; empty: it does not.
	MountPoint string
	ReadOnly   bool
	// Protocol is VirtioFS or NineP.
	Protocol string
	// Cache is for virtiofs: auto, always or never.
	Cache string
	// Security is for 9p: mapped or none.
	Security string
	// Socket is the absolute path at which somebody else serves it; empty: Ampoule
	// has it served.
	Socket string
	From   From
}

// The protocols of a share.
const (
	VirtioFS = "virtiofs"
	NineP    = "9p"
)

const (
	// MaxVirtioFSTag is the room that a virtio file system device has for its tag,
	// in bytes (struct virtio_fs_config).
	MaxVirtioFSTag = 36
	// MaxSocket is the room in the address of a socket for its path, in bytes
	// (sun_path of struct sockaddr_un, without its NUL).
	MaxSocket = 107
	// MaxNinePTag is what QEMU takes (MAX_TAG_LEN in hw/9pfs/9p.h of its sources).
	MaxNinePTag = 31
)

// MountsByCredential is the first version of systemd that mounts what the
// credential fstab.extra says (systemd.system-credentials(7)).
const MountsByCredential = 254

// FstabCredential is the credential by which a guest mounts its shares by itself.
const FstabCredential = "fstab.extra"

const acceptedShare = "accepted: SOURCE:TAG[:MOUNTPOINT][:OPTION,…] with the options ro, rw, virtiofs, 9p, cache=auto|always|never, security=mapped|none, socket=PATH; a colon in a path is written \\:"

func shareRows() []Row {
	return []Row{{
		Name: "Share", Merge: layer.List, Form: "SOURCE:TAG[:MOUNTPOINT][:OPTION,…]", Accepted: acceptedShare,
		Help: "A directory of the host that the guest can mount, by its TAG: letters, digits, \".\", \"_\" and \"-\", at most 36 of them, or 31 with 9p. " +
			"With MOUNTPOINT, an absolute path, a guest with systemd 254 or newer mounts it there by itself. Options, separated by commas: rw (default) or ro, read-only; " +
			"virtiofs (default), for which a unit of its own per share runs virtiofsd, or 9p; cache=auto (default), always or never, what the guest may keep of a virtiofs share; " +
			"security=mapped (default), by which owners and modes that the guest sets to files of a 9p share are kept in extended attributes, or none, the default with ro, by which they are the files' own. " +
			"socket=PATH: somebody else serves the directory by virtiofs, on the socket at this absolute path, and the VM's user may connect to it; no unit is made, and cache= and what ro means for writing are up to whoever serves it. " +
			"A directory in which credentials lie cannot be shared, by whatever path, link or mount, nor one inside another share, unless both are read-only. " +
			"A link on the way to it that belongs to a user other than root leads to a directory of that user alone. A colon in a path is written \\:.",
		apply: func(r *reader, value string, from From) error {
			expanded, err := r.Identity.Expand(value)
			if err != nil {
				return err
			}
			s, err := ParseShare(expanded)
			if err != nil {
				return err
			}
			s.From = from
			r.vm.Shares = append(r.vm.Shares, s)
			return nil
		},
	}}
}

// ParseShare reads SOURCE:TAG[:MOUNTPOINT][:OPTION,…].
func ParseShare(s string) (Share, error) {
	out := Share{Protocol: VirtioFS}
	source, rest, ok := cutUnescaped(s)
	if !ok {
		return out, fmt.Errorf("there is no tag behind the path")
	}
	var err error
	if out.Source, err = ParseAbsolutePath(source); err != nil {
		return out, fmt.Errorf("the source: %w", err)
	}
	if strings.ContainsFunc(out.Source, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return out, fmt.Errorf("the source: a path with control characters")
	}
	out.Tag, rest, ok = strings.Cut(rest, ":")
	if strings.HasPrefix(rest, "/") {
		var point string
		point, rest, ok = cutUnescaped(rest)
		if out.MountPoint, err = parseMountPoint(point); err != nil {
			return out, fmt.Errorf("the mount point: %w", err)
		}
	}
	if ok {
		if err := out.options(rest); err != nil {
			return out, err
		}
	}
	out.defaults()
	return out, out.check()
}

// parseMountPoint reads a path of the guest.
func parseMountPoint(s string) (string, error) {
	p, err := ParseAbsolutePath(s)
	switch {
	case err != nil:
		return "", err
	case p == "/":
		return "", fmt.Errorf("the guest's root is mounted before its systemd runs; use root=TAG rootfstype=virtiofs in KernelCommandLine=")
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", fmt.Errorf("a path with control characters")
	}
	return p, nil
}

// options reads the words behind the last colon.
func (s *Share) options(text string) error {
	var seen []string
	for option := range strings.SplitSeq(text, ",") {
		name, value, hasValue := strings.Cut(option, "=")
		kind := name
		switch name {
		case "ro", "rw":
			kind = "ro or rw"
		case VirtioFS, NineP:
			kind = "the protocol"
		}
		if slices.Contains(seen, kind) {
			return fmt.Errorf("of %s there are two", kind)
		}
		seen = append(seen, kind)
		if err := s.option(name, value, hasValue); err != nil {
			return err
		}
	}
	return nil
}

func (s *Share) option(name, value string, hasValue bool) error {
	oneOf := func(words ...string) error {
		if !slices.Contains(words, value) {
			return &valueError{fmt.Sprintf("the option %s has another value", name), "accepted: " + name + "=" + strings.Join(words, "|")}
		}
		return nil
	}
	switch {
	case (name == "ro" || name == "rw") && !hasValue:
		s.ReadOnly = name == "ro"
	case (name == VirtioFS || name == NineP) && !hasValue:
		s.Protocol = name
	case name == "cache" && hasValue:
		s.Cache = value
		return oneOf("auto", "always", "never")
	case name == "security" && hasValue:
		s.Security = value
		return oneOf("mapped", "none")
	case name == "socket" && hasValue:
		return s.socket(value)
	case name == "":
		return fmt.Errorf("an option is empty")
	case strings.HasPrefix(name, "/"):
		return fmt.Errorf("a mount point stands right behind the tag")
	default:
		return fmt.Errorf("unknown option %q", option(name, value, hasValue))
	}
	return nil
}

// socket takes the path at which somebody else serves the share.
func (s *Share) socket(value string) error {
	p, err := ParseAbsolutePath(strings.NewReplacer(`\\`, `\`, `\:`, ":").Replace(value))
	switch {
	case err != nil:
		return fmt.Errorf("socket=: %w", err)
	case len(p) > MaxSocket:
		return &valueError{fmt.Sprintf("socket=: a path of %d bytes", len(p)), fmt.Sprintf("accepted: at most %d, which is what an address of a socket has room for", MaxSocket)}
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("socket=: a path with control characters")
	}
	s.Socket = p
	return nil
}

// option is one as it was written.
func option(name, value string, hasValue bool) string {
	if hasValue {
		return name + "=" + value
	}
	return name
}

// defaults fills in what the line leaves open. Nothing is changed through a share
// that is read-only, and there is nothing to map.
func (s *Share) defaults() {
	switch {
	case s.Protocol == VirtioFS && s.Cache == "" && s.Socket == "":
		s.Cache = "auto"
	case s.Protocol == NineP && s.Security == "" && s.ReadOnly:
		s.Security = "none"
	case s.Protocol == NineP && s.Security == "":
		s.Security = "mapped"
	}
}

// check refuses what does not go together.
func (s *Share) check() error {
	most := MaxVirtioFSTag
	if s.Protocol == NineP {
		most = MaxNinePTag
	}
	switch {
	case s.Tag == "":
		return fmt.Errorf("the tag is empty")
	case len(s.Tag) > most:
		return &valueError{fmt.Sprintf("the tag has %d bytes", len(s.Tag)), fmt.Sprintf("accepted: at most %d with %s", most, s.Protocol)}
	case s.Tag[0] == '-':
		return fmt.Errorf("a tag does not begin with '-', as the options of programs do")
	case strings.Trim(s.Tag, nameHas) != "":
		return fmt.Errorf("a tag has letters, digits, '.', '_' and '-'")
	case s.Tag == "." || s.Tag == "..":
		return fmt.Errorf("a tag is more than dots")
	case s.Protocol == NineP && s.Cache != "":
		return fmt.Errorf("cache= is for virtiofs")
	case s.Protocol == VirtioFS && s.Security != "":
		return fmt.Errorf("security= is for 9p")
	case s.Protocol == NineP && s.Socket != "":
		return fmt.Errorf("socket= is for virtiofs: 9p is served by the hypervisor itself")
	case s.Socket != "" && s.Cache != "":
		return &valueError{"cache= is up to whoever serves it", "accepted: socket= without cache="}
	}
	return nil
}

// checkShares refuses what concerns more than one line, and what a guest must not
// see.
func (r *reader) checkShares() {
	for i := range r.vm.Shares {
		s := &r.vm.Shares[i]
		for j := range i {
			r.checkPair(s, &r.vm.Shares[j])
		}
		if what, accepted := r.vm.exposes(s.Source); what != "" {
			s.From.Errorf(r.problems, accepted, "%s", what)
		}
		r.checkMountPoint(s)
	}
}

// checkPair refuses two shares that would be in each other's way.
func (r *reader) checkPair(s, other *Share) {
	at := other.From.Origin
	if s.Socket != "" && s.Socket == other.Socket {
		s.From.Errorf(r.problems, "name a socket of its own for each share", "the same socket as at %s", at)
	}
	if s.Tag == other.Tag {
		s.From.Errorf(r.problems, "give each share a tag of its own", "the same tag as at %s", at)
	}
	if s.MountPoint != "" && s.MountPoint == other.MountPoint {
		s.From.Errorf(r.problems, "give each share a mount point of its own", "the same mount point as at %s", at)
	}
	if s.ReadOnly && other.ReadOnly {
		return
	}
	const accepted = "accepted: directories that do not lie in each other, unless both shares are read-only"
	switch {
	case s.Source == other.Source:
		s.From.Errorf(r.problems, accepted, "the same directory as at %s", at)
	case Within(s.Source, other.Source):
		s.From.Errorf(r.problems, accepted, "the directory lies in the one at %s", at)
	case Within(other.Source, s.Source):
		s.From.Errorf(r.problems, accepted, "in the directory lies the one at %s", at)
	}
}

// checkMountPoint refuses a mount point that no guest would mount.
func (r *reader) checkMountPoint(s *Share) {
	if s.MountPoint == "" {
		return
	}
	if v := r.vm.GuestSystemd; v.Set && v.Value < MountsByCredential {
		s.From.Errorf(r.problems, "remove the mount point, and mount the share in the guest: mount -t "+s.Protocol+" "+s.Tag+" "+s.MountPoint,
			"a guest's systemd below %d (%s) does not mount a share by itself", MountsByCredential, v.From.Origin)
	}
}

// keptFrom are the places of the host that no guest sees, by a prefix of whole
// names: its kernel's and its devices', where systemd and others keep secrets in
// use, and where Ampoule keeps what is other VMs'.
var keptFrom = []string{
	"/proc", "/sys", "/dev", "/run/secrets", "/run/secrets.d", "/run/agenix", "/run/agenix.d", "/run/keys", "/run/credentials", "/run/user",
	"/run/ampoule", "/run/private/ampoule", "/var/lib/ampoule", "/var/lib/private/ampoule",
	"/etc/credstore", "/etc/credstore.encrypted", "/run/credstore", "/run/credstore.encrypted", "/var/lib/systemd/credential.secret",
}

// KeptFrom are the places of the host that no guest sees.
func KeptFrom() []string { return slices.Clone(keptFrom) }

// exposes says what is wrong with sharing a directory, by its path alone; empty:
// nothing. Whoever starts the VM asks again with the path behind all links.
func (vm *VM) exposes(source string) (what, accepted string) {
	var credentials []SharedSecret
	for _, c := range slices.Concat(vm.Credentials, vm.ServiceCredentials) {
		if path.IsAbs(c.Path) {
			credentials = append(credentials, SharedSecret{c.Path, c.From.Origin.String() + ", " + c.From.Key + "="})
		}
	}
	return Exposes(source, credentials)
}

// SharedSecret is the source of a credential, and the line that names it.
type SharedSecret struct{ Path, Line string }

// Exposes says what is wrong with a share of the directory source beside these
// credentials; empty: nothing.
func Exposes(source string, credentials []SharedSecret) (what, accepted string) {
	const cure = "share a directory of its own"
	if source == "/" {
		return "it is all of the host", cure
	}
	for _, kept := range keptFrom {
		switch {
		case source == kept || Within(source, kept):
			return "nothing in " + kept + " is for a guest", cure
		case Within(kept, source):
			return kept + " lies in it, and is not for a guest", cure
		}
	}
	for _, c := range credentials {
		if source == c.Path || Within(c.Path, source) || Within(source, c.Path) {
			return fmt.Sprintf("the guest would see the source of a credential, %s (%s)", c.Path, c.Line), cure + ", or keep the credential elsewhere"
		}
	}
	return "", ""
}

// mounts are the lines of an fstab by which a guest mounts its shares by itself,
// and the first line that asks for one; empty without any.
func (vm *VM) mounts() (fstab string, first From) {
	var b strings.Builder
	for i := range vm.Shares {
		s := &vm.Shares[i]
		if s.MountPoint == "" {
			continue
		}
		if b.Len() == 0 {
			first = s.From
		}
		options := "rw"
		if s.ReadOnly {
			options = "ro"
		}
		if s.Protocol == NineP {
			// With messages of the size that the kernel takes by default 9p is slow.
			options += ",trans=virtio,version=9p2000.L,msize=1048576"
		}
		fmt.Fprintf(&b, "%s %s %s %s 0 0\n", s.Tag, fstabField(s.MountPoint), s.Protocol, options)
	}
	return b.String(), first
}

// fstabField writes a path as a field of an fstab has it (fstab(5)).
func fstabField(p string) string {
	return strings.NewReplacer(" ", `\040`, `\`, `\134`, "#", `\043`).Replace(p)
}
