package shim

import (
	"strings"
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/shim/cmdline"
	"github.com/ampoule-vm/ampoule/internal/shim/disk"
)

// sysfs is where the shim has it while it looks for a device.
const sysfs = scratch + "/sys"

// find returns the number of the device that root names, as mknod takes it, as
// soon as the kernel has it.
func (m mounter) find(root cmdline.Root) (int, error) {
	if err := first(makeDirectory(sysfs, 0o700), syscall.Mount("sysfs", sysfs, "sysfs", storeFlags, "")); err != nil {
		_ = syscall.Rmdir(sysfs)
		if root.Kind == cmdline.Number {
			return deviceNumber(root.Major, root.Minor), nil
		}
		return 0, doing("looking for root="+m.p.Root+" in /sys", err)
	}
	defer func() {
		_ = syscall.Unmount(sysfs, syscall.MNT_DETACH)
		_ = syscall.Rmdir(sysfs)
	}()
	number, missed := 0, false
	found := m.wait(func() bool {
		var ok bool
		if number, ok = lookUp(root); !ok && !missed {
			missed = true
			m.log.say(levelInfo, "waiting for root=", m.p.Root)
		}
		return ok
	})
	if !found {
		return 0, plain("root=" + m.p.Root + " is not there; what is there: " + present())
	}
	return number, nil
}

// lookUp looks once.
func lookUp(root cmdline.Root) (int, bool) {
	switch root.Kind {
	case cmdline.Disk:
		return numberOf(sysfs + "/class/block/" + root.Name)
	case cmdline.Number:
		name := decimal(uint64(root.Major)) + ":" + decimal(uint64(root.Minor))
		return deviceNumber(root.Major, root.Minor), exists(sysfs + "/dev/block/" + name)
	case cmdline.PartUUID:
		return partition(root.Offset, func(t disk.Table, n int) bool {
			return hasPrefixFold(t.UUID(n), root.Name)
		})
	case cmdline.PartLabel:
		return partition(0, func(t disk.Table, n int) bool { return root.Name != "" && t.Label(n) == root.Name })
	}
	return 0, false
}

// numberOf reads the number of a device from its directory in sysfs, where it
// stands as root= takes it.
func numberOf(dir string) (int, bool) {
	r := cmdline.ParseRoot(line(dir + "/dev"))
	return deviceNumber(r.Major, r.Minor), r.Kind == cmdline.Number
}

// partition returns the partition that is offset behind the first one that
// matches.
func partition(offset int, matches func(disk.Table, int) bool) (int, bool) {
	for _, name := range disks() {
		dir := sysfs + "/class/block/" + name + "/"
		table, ok := readTable(dir)
		if !ok {
			continue
		}
		parts := partitions(dir)
		for n, part := range parts {
			if part == "" || !matches(table, n) {
				continue
			}
			wanted := n + offset
			if wanted < 0 || wanted >= len(parts) || parts[wanted] == "" {
				return 0, false
			}
			return numberOf(dir + parts[wanted])
		}
	}
	return 0, false
}

// disks returns the names of the block devices that are whole and not empty.
func disks() []string {
	names, _ := list(sysfs + "/class/block")
	var out []string
	for _, name := range names {
		dir := sysfs + "/class/block/" + name + "/"
		if !exists(dir+"partition") && line(dir+"size") != "0" {
			out = append(out, name)
		}
	}
	return out
}

// partitions returns the names of a disk's partitions by their numbers.
func partitions(dir string) []string {
	const most = 256 // of a disk, for the kernel
	out := make([]string, most)
	names, _ := list(dir + ".") // dir is a link
	for _, name := range names {
		if n, ok := atoi(line(dir + name + "/partition")); ok && n < most {
			out[n] = name
		}
	}
	return out
}

// readTable reads the partition table of a disk through a node of its own.
func readTable(dir string) (disk.Table, bool) {
	number, ok := numberOf(dir)
	if !ok {
		return disk.Table{}, false
	}
	const node = scratch + "/disk"
	_ = syscall.Unlink(node)
	if err := syscall.Mknod(node, syscall.S_IFBLK|0o600, number); err != nil {
		return disk.Table{}, false
	}
	fd, err := syscall.Open(node, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	_ = syscall.Unlink(node)
	if err != nil {
		return disk.Table{}, false
	}
	defer closeFile(fd)
	blockSize, ok := atoi(line(dir + "queue/logical_block_size"))
	sectors, known := atoi(line(dir + "size"))
	if !ok || !known || blockSize == 0 {
		return disk.Table{}, false
	}
	read := func(p []byte, at int64) error {
		for len(p) > 0 {
			n, err := syscall.Pread(fd, p, at)
			if err != nil {
				return err
			}
			if n == 0 {
				return syscall.EIO
			}
			p, at = p[n:], at+int64(n)
		}
		return nil
	}
	table, err := disk.Parse(read, blockSize, uint64(sectors)*512/uint64(blockSize))
	return table, err == nil
}

// present lists the block devices for somebody who named another one.
func present() string {
	var out []string
	for _, name := range disks() {
		out = append(out, name)
		for _, part := range partitions(sysfs + "/class/block/" + name + "/") {
			if part != "" {
				out = append(out, part)
			}
		}
	}
	if len(out) == 0 {
		return "no disk at all"
	}
	return strings.Join(out, " ")
}

// atoi reads a decimal number that fits.
func atoi(s string) (int, bool) {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' || n > 1<<50 {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, s != ""
}

// hasPrefixFold is for ASCII.
func hasPrefixFold(s, prefix string) bool {
	lower := func(c byte) byte {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		return c
	}
	if len(s) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if lower(s[i]) != lower(prefix[i]) {
			return false
		}
	}
	return true
}
