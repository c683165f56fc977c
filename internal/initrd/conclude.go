package initrd

import (
	"path"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
)

// ownDirectory is the directory, below the root, in which Ampoule's own part of
// an initial RAM disk lies.
const ownDirectory = ".ampoule"

// conclude fills in what only the whole tree tells.
func (in *inspector) conclude() {
	t, out := in.tree, in.report
	out.Pages = t.pages
	out.Init = in.findInit()
	out.Release = t.has("/etc/initrd-release")
	out.Maker = t.maker(out.Init)
	if t.root.children[ownDirectory] != nil {
		out.Ampoule = true
	}
	if run := t.root.children["run"]; run != nil && !run.is(cpio.TypeDir) {
		switch {
		case run.is(cpio.TypeSymlink):
			out.Run = "symlink"
		case run.is(cpio.TypeRegular):
			out.Run = "file"
		default:
			out.Run = "other"
		}
	}
	if t.orphans != 0 {
		in.flaw(0, "%d entries lie in directories that have no entry before them, so that Linux does not make them; the first is %.100q", t.orphans, t.firstOrphan)
	}
}

func (in *inspector) findInit() Init {
	out := Init{Path: in.options.Init, Kind: Unknown}
	if in.report.NotInspected != "" {
		return out // a later archive may have another
	}
	n, at, loop := in.tree.find(in.options.Init)
	switch {
	case loop:
		out.Kind, out.Why = Missing, "too many symbolic links"
		return out
	case n == nil:
		out.Kind = Missing
		if at != path.Clean("/"+in.options.Init) {
			out.Why = "it leads to " + at + ", which is not there"
		}
		return out
	}
	out.Resolved, out.Kind = at, Other
	out.Executable = n.is(cpio.TypeRegular) && n.mode&0o111 != 0
	c := n.content
	switch {
	case !n.is(cpio.TypeRegular):
	case c.script:
		out.Kind, out.Interpreter = Script, c.interpreter
	case c.systemd, path.Base(at) == "systemd":
		out.Kind = Systemd
	case c.elf:
		out.Kind = ELF
	}
	return out
}

// maker goes by files that a program puts into what it makes, and not into a
// system on which it is installed: a whole system can be an initial RAM disk too.
func (t *tree) maker(first Init) string {
	has := func(paths ...string) bool {
		for _, p := range paths {
			if t.has(p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("/usr/lib/dracut/build-parameter.txt", "/usr/lib/dracut/modules.txt", "/usr/lib/dracut-lib.sh",
		"/lib/dracut/build-parameter.txt", "/lib/dracut/modules.txt", "/lib/dracut-lib.sh"):
		return "dracut"
	case has("/conf/initramfs.conf") && has("/scripts/functions"):
		return "initramfs-tools"
	case has("/buildconfig", "/init_functions") && has("/config"):
		return "mkinitcpio"
	case has("/usr/lib/udev/rules.d/10-mkosi-initrd-dm.rules", "/usr/lib/udev/rules.d/10-mkosi-initrd-md.rules",
		"/usr/lib/systemd/system-preset/10-mkosi-initrd.preset"):
		return "mkosi"
	case strings.HasPrefix(first.Resolved, "/nix/store/"):
		return "nixos"
	}
	return ""
}
