package shim

import (
	"strings"
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/shim/cmdline"
	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

// newRoot is where the kernel too has the new root before it becomes the root.
const newRoot = "/root"

// probeTime is for how many seconds the shim waits without rootwait. The kernel
// waits until its drivers have looked at their devices, which nobody else can
// observe.
const probeTime = 10

// enterRoot mounts the root file system of the kernel's command line and makes
// it the root, with /run and the credentials in it.
func (b *boot) enterRoot(p cmdline.Boot) error {
	root := cmdline.ParseRoot(p.Root)
	switch root.Kind {
	case cmdline.Nothing:
		return plain("the initrd has no init, and the kernel's command line no root=")
	case cmdline.Impossible:
		return plain("root=" + p.Root + ": " + root.Reason)
	}
	if p.Delay > 0 {
		b.log.say(levelInfo, "waiting ", decimal(uint64(p.Delay)), " seconds before the root is mounted")
		sleep(p.Delay, 0)
	}
	types := fileSystems(b.kernelText("filesystems"))
	m := mounter{log: b.log, p: p, known: types}
	if err := m.mountRoot(root); err != nil {
		return err
	}
	if b.delivered {
		if err := moveRun(); err != nil {
			b.log.say(levelError, "no credentials: ", err.Error())
			withdraw()
			b.delivered = false
		}
	}
	return b.switchRoot()
}

// moveRun moves /run, with the store in it, into the new root.
func moveRun() error {
	to := newRoot + layout.Run
	if err := makeDirectory(to, 0o755); err != nil {
		return err
	}
	return doing("moving "+layout.Run, syscall.Mount(layout.Run, to, "", syscall.MS_MOVE, ""))
}

// switchRoot makes newRoot the root of everything, with devices in its /dev.
func (b *boot) switchRoot() error {
	if err := syscall.Mount("devtmpfs", newRoot+"/dev", "devtmpfs", syscall.MS_SILENT, ""); err != nil {
		b.log.say(levelWarning, "mounting /dev of the root: ", err.Error())
	}
	return first(
		doing("entering the root", syscall.Chdir(newRoot)),
		doing("moving the root", syscall.Mount(".", "/", "", syscall.MS_MOVE, "")),
		doing("changing the root", syscall.Chroot(".")),
		doing("changing to the root", syscall.Chdir("/")),
	)
}

// known are the kernel's file systems in its order.
type known struct {
	block, nodev []string
}

// fileSystems reads /proc/filesystems: a line for each, those without a device
// marked.
func fileSystems(text string) known {
	var k known
	for text != "" {
		var l string
		l, text, _ = strings.Cut(text, "\n")
		mark, name, ok := strings.Cut(l, "\t")
		switch {
		case !ok || name == "":
		case mark == "nodev":
			k.nodev = append(k.nodev, name)
		case mark == "":
			k.block = append(k.block, name)
		}
	}
	return k
}

// without returns those of types that need no device.
func (k known) without(types []string) []string {
	var out []string
	for _, t := range types {
		for _, n := range k.nodev {
			if t == n {
				out = append(out, t)
			}
		}
	}
	return out
}

// mounter mounts a root.
type mounter struct {
	log   kernelLog
	p     cmdline.Boot
	known known
}

// mountRoot mounts at newRoot what root names, as soon as it is there.
func (m mounter) mountRoot(root cmdline.Root) error {
	_ = syscall.Mkdir(newRoot, 0o700)
	tags := m.known.without(m.p.Types)
	if root.Kind == cmdline.Tag && len(tags) == 0 {
		return plain("root=" + m.p.Root + ": not a device, and rootfstype= names no file system without one that this kernel has")
	}
	if root.Kind == cmdline.Tag {
		var err error
		m.wait(func() bool {
			err = m.mount(root.Source, tags)
			return err == nil
		})
		return err
	}
	_ = syscall.Mkdir(scratch, 0o700)
	dev, err := m.find(root)
	_ = syscall.Rmdir(scratch)
	if err != nil {
		return err
	}
	types := m.p.Types
	if len(types) == 0 {
		types = m.known.block
	}
	const node = "/dev/root" // the source that /proc/mounts shows, as with the kernel
	_ = syscall.Mkdir("/dev", 0o755)
	_ = syscall.Unlink(node)
	if err := syscall.Mknod(node, syscall.S_IFBLK|0o600, dev); err != nil {
		return doing("making "+node, err)
	}
	return m.mount(node, types)
}

// mount tries the types in their order, writable if that is wanted, and then,
// as the kernel does, read-only if that is all there is.
func (m mounter) mount(source string, types []string) error {
	flags, how := uintptr(syscall.MS_SILENT|syscall.MS_RDONLY), ", read-only"
	if m.p.Writable {
		flags, how = syscall.MS_SILENT, ""
	}
	for {
		for _, t := range types {
			switch err := syscall.Mount(source, newRoot, t, flags, m.p.Flags); err {
			case nil:
				m.log.say(levelInfo, "mounted root=", m.p.Root, " as ", t, how)
				return nil
			case syscall.EACCES, syscall.EINVAL, syscall.EROFS:
			default:
				return doing("mounting root="+m.p.Root+" as "+t, err)
			}
		}
		if flags&syscall.MS_RDONLY != 0 {
			return plain("root=" + m.p.Root + ": none of these is its file system: " + strings.Join(types, " "))
		}
		flags, how = flags|syscall.MS_RDONLY, ", read-only, as it cannot be written"
	}
}

// wait calls try until it is true or the time is over.
func (m mounter) wait(try func() bool) bool {
	limit := probeTime
	if m.p.Wait.Named && (m.p.Wait.Seconds < 0 || m.p.Wait.Seconds > limit) {
		limit = m.p.Wait.Seconds
	}
	for began := now(); !try(); sleep(0, 20e6) {
		if limit >= 0 && now()-began > int64(limit) {
			return false
		}
	}
	return true
}

// now is the time in seconds.
func now() int64 {
	var t syscall.Timeval
	_ = syscall.Gettimeofday(&t)
	return t.Sec
}

func sleep(seconds uint32, nanoseconds int64) {
	t := syscall.Timespec{Sec: int64(seconds), Nsec: nanoseconds}
	for syscall.Nanosleep(&t, &t) == syscall.EINTR {
		continue
	}
}
