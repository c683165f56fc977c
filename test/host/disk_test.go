package host

import "testing"

// TestDisks: new disks are made and formatted in the sandbox, by the VM's user; the
// guest has its disks in the order of their lines; and what one VM has no other gets.
func TestDisks(t *testing.T) {
	onEach(t, func(h *host) {
		fs, label := ",fs=ext4,label=data", `LABEL="data" `
		if h.sh("command -v mkfs.ext4 || true") == "" {
			fs, label = "", "" // this release's minimal system has none
		}
		h.sh("truncate -s 1M /srv/shared.raw; chmod 666 /srv/shared.raw")
		h.file("/etc/ampoule/web.microvm", vm("stay", "Disk=data.raw:size=16M,serial=one"+fs, "Disk=/srv/shared.raw:ro,direct,serial=two", "Disk=more.vhd:vhd,size=8M"))
		h.file("/etc/ampoule/thief.microvm", "[MicroVM]\nKernel=/var/lib/guest/vmlinuz\nInitrd=/var/lib/guest/initrd\nDisk=/srv/shared.raw\n")
		h.sh("systemctl daemon-reload")
		h.sh("systemctl start microvm@web", prints(""))
		h.sh("journalctl -u microvm@web -o cat --no-pager", says("disk vda 16777216 0 one", "disk vdb 1048576 1 two", "disk vdc 8388608 0"))
		h.sh("blkid -p /var/lib/private/ampoule/vm/web/data.raw || true", says(label))
		h.sh("stat -c '%a %u' /var/lib/private/ampoule/vm/web/data.raw", says("600 "), not("600 0"))
		h.sh("ls -A /var/lib/private/ampoule/vm/web", not(".new-disk"))

		const used = "/etc/ampoule/thief.microvm:4: Disk=/srv/shared.raw: the disk is in use by "
		h.sh("ampoule check thief", exits(2), says(used+"process ", "(qemu-system-x86)"))
		h.sh("ampoule check web || true", not("in use")) // that root opens nothing of its is said
		h.sh("systemctl start microvm@thief", fails)
		h.sh("journalctl -u microvm@thief -o cat --no-pager", says(used, "nothing was started"))
		h.sh("ampoule check thief --set Disk= --set Disk=/srv/shared.raw:ro", exits(0))
		h.sh("systemctl stop microvm@web", prints(""))
		// It is free now, and yet two VMs want it that may run at the same time.
		h.sh("ampoule check thief", exits(2), not("in use"), says("the VM web has the same disk (/etc/ampoule/web.microvm:8)"))
	})
}
