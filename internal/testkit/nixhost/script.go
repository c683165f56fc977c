package nixhost

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// bare are words that lib.escapeShellArg leaves as they are.
var bare = regexp.MustCompile(`^[[:alnum:],._+:@%/-]+$`)

func escape(words ...string) string {
	out := make([]string, 0, len(words))
	for _, w := range words {
		if !bare.MatchString(w) {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

// runScript is the text of microvm-run around a command (lib/runner.nix).
func (h *Host) runScript(vm *VM, command string) string {
	b := "set -eou pipefail\n" + h.preStart(vm) + "\n" + h.volumes(vm) + "\n"
	if vm.Hypervisor != "firecracker" {
		b += "# Open macvtap interface file descriptors\n"
	}
	b += "\nruntime_args="
	if vm.ExtraArgsScript != "" {
		b += "$(" + h.Script(vm.HostName+"-extra-args", vm.ExtraArgsScript) + ")\n"
	}
	return b + "\n\nexec -a \"microvm@" + vm.HostName + "\" " + command + " ${runtime_args:-}\n"
}

func (h *Host) preStart(vm *VM) string {
	switch vm.Hypervisor {
	case "cloud-hypervisor":
		b := vm.PreStart + "\n# workaround cloud-hypervisor sometimes\n# stumbling over a preexisting socket\nrm -f '" + vm.socket() + "'\n\n\n"
		if vm.notifies() {
			b += h.notifyBridge()
		}
		return b
	case "firecracker":
		b := vm.PreStart + "\n\nif [ -e '" + vm.socket() + "' ]; then\n  mv '" + vm.socket() + "' '" + vm.socket() + ".old'\nfi\n"
		if vm.CID != 0 {
			b += "rm -f notify.vsock notify.vsock_*\n"
		}
		return b
	}
	return vm.PreStart
}

// notifyBridge passes on what a guest says of its readiness.
func (h *Host) notifyBridge() string {
	return `# Ensure notify sockets are removed if cloud-hypervisor didn't exit cleanly the last time
rm -f notify.vsock notify.vsock_8888

# Start socat to forward systemd notify socket over vsock
if [ -n "${NOTIFY_SOCKET:-}" ]; then
  # Both timeouts must be short: since systemd v256, every sd_notify()
  # over an AF_VSOCK stream socket blocks in recv() until the peer
  # closes, and guest PID1 sends STATUS= notifications every 333ms while
  # boot jobs are running - each one stalls PID1's whole event loop
  # until the guest sees EOF, serializing boot.
  #
  # -t0: with cloud-hypervisor >= 53.0 the guest's half-close is
  #   propagated, so socat sees EOF and must terminate the connection
  #   immediately instead of waiting its default 0.5s drain timeout
  #   (there is no reverse traffic to drain - the other side is a
  #   datagram socket).
  # -T0.2: with cloud-hypervisor <= 52.0 the half-close is never
  #   propagated, so only this inactivity timeout closes the connection
  #   and delivers the EOF.
  ` + h.socat() + ` -t0 -T0.2 UNIX-LISTEN:notify.vsock_8888,fork UNIX-SENDTO:$NOTIFY_SOCKET &
fi
`
}

func (h *Host) socat() string { return h.Package("socat-1.8.0.3", "bin/socat") + "/bin/socat" }

func (h *Host) volumes(vm *VM) string {
	if len(vm.Volumes) == 0 {
		return ""
	}
	parts := make([]string, 0, len(vm.Volumes))
	for _, v := range vm.Volumes {
		parts = append(parts, fmt.Sprintf("if [ ! -e '%[1]s' ]; then\n  touch '%[1]s'\n  # Mark NOCOW\n  chattr +C '%[1]s' || true\n  truncate -s %[2]dM '%[1]s'\n  mkfs.ext4   '%[1]s'\nfi\n", v.Image, v.Size))
	}
	return "PATH=$PATH:" + h.Package("coreutils-9.8", "bin/rm") + "/bin:" + h.Package("e2fsprogs-1.47.3-bin", "bin/mkfs.ext4") + "/bin\n" + strings.Join(parts, "\n")
}

// command is the hypervisor's line, and its words as the process has them.
func (h *Host) command(vm *VM, top string) (line string, argv []string) {
	kernel, image := h.Package("linux-"+h.Kernel+"-dev", "vmlinux")+"/vmlinux", h.Package("linux-"+h.Kernel, "bzImage")+"/bzImage"
	initrd := h.Package("initrd-linux-"+h.Kernel, "initrd") + "/initrd"
	var binary string
	var words, raw, last []string
	switch vm.Hypervisor {
	case "cloud-hypervisor":
		binary = h.Package("cloud-hypervisor-48.0", "bin/cloud-hypervisor", "bin/ch-remote") + "/bin/cloud-hypervisor"
		words, last = h.cloudHypervisor(vm, kernel, initrd, top), vm.ExtraArgs
	case "qemu":
		binary = h.Package("qemu-host-cpu-only-for-vm-tests-10.1.0", "bin/qemu-system-x86_64") + "/bin/qemu-system-x86_64"
		words, raw, last = h.qemu(vm, image, initrd, top)
	case "firecracker":
		binary = h.Package("firecracker-1.13.1", "bin/firecracker") + "/bin/firecracker"
		words = []string{"--config-file", h.firecracker(vm, kernel, initrd, top), "--api-sock", vm.socket(), "--enable-pci"}
		words = append(words, vm.ExtraArgs...)
	case "stratovirt":
		binary = h.Package("expect-5.45.4", "bin/unbuffer") + "/bin/unbuffer"
		words = h.stratovirt(vm, image, initrd, top)
	default:
		h.t.Fatalf("there is no hypervisor %q here", vm.Hypervisor)
	}
	argv = append([]string{"microvm@" + vm.HostName}, words...)
	line = escape(append([]string{binary}, words...)...)
	if vm.Hypervisor == "cloud-hypervisor" || vm.Hypervisor == "qemu" {
		line += " " + strings.Join(raw, " ") + " " + escape(last...)
		argv = append(append(argv, raw...), last...)
	}
	return line, argv
}

// cloudHypervisor are the words of lib/runners/cloud-hypervisor.nix.
func (h *Host) cloudHypervisor(vm *VM, kernel, initrd, top string) []string {
	memory := "mergeable=on,shared=off,size=%dM"
	if !vm.StoreOnDisk {
		memory = "shared=on,size=%dM"
	}
	memory = fmt.Sprintf(memory, vm.Mem)
	if vm.HotplugMem > 0 {
		memory = fmt.Sprintf("hotplug_method=virtio-mem,hotplug_size=%[1]dM,hotplugged_size=%[1]dM,%[2]s", vm.HotplugMem,
			strings.Replace(memory, fmt.Sprintf("size=%dM", vm.Mem), fmt.Sprintf("size=%dM", vm.HotplugMem), 1))
	}
	oem := vm.OEMStrings
	if vm.notifies() {
		oem = append(oem[:len(oem):len(oem)], "io.systemd.credential:vmm.notify_socket=vsock-stream:2:8888")
	}
	platform := ""
	if len(oem) > 0 {
		platform = "oem_strings=[" + strings.Join(oem, ",") + "]"
	}
	words := []string{"--cpus", "boot=" + strconv.Itoa(vm.VCPU), "--watchdog", "--kernel", kernel, "--initramfs", initrd,
		"--cmdline", "earlyprintk=ttyS0 console=ttyS0 reboot=t panic=-1 " + h.kernelParams(vm, top), "--seccomp", "true",
		"--memory", memory, "--platform", platform, "--console", "null", "--serial", "tty"}
	if vm.CID != 0 {
		words = append(words, "--vsock", fmt.Sprintf("cid=%d,socket=notify.vsock", vm.CID))
	}
	queues := func(n int) string {
		if vm.VCPU == 1 {
			return ""
		}
		return fmt.Sprintf("num_queues=%d,", n*vm.VCPU)
	}
	var disks []string
	if vm.StoreOnDisk {
		disks = append(disks, queues(1)+"path="+h.storeDisk(vm, top)+",readonly=on")
	}
	for _, v := range vm.Volumes {
		d := "direct=" + onOff(v.Direct) + ",image_type=raw," + queues(1) + "path=" + v.Image + ",readonly=" + onOff(v.ReadOnly)
		if v.Serial != "" {
			d += ",serial=" + v.Serial
		}
		disks = append(disks, d)
	}
	if len(disks) > 0 {
		words = append(append(words, "--disk"), disks...)
	}
	if !vm.StoreOnDisk {
		words = append(words, "--fs", "socket="+vm.HostName+"-virtiofs-ro-store.sock,tag=ro-store")
	}
	words = append(words, "--api-socket", vm.socket())
	if len(vm.Taps) > 0 {
		words = append(words, "--net")
	}
	for i, id := range vm.Taps {
		words = append(words, fmt.Sprintf("mac=%s,%stap=%s", mac(i), queues(2), id))
	}
	return words
}

func mac(i int) string { return fmt.Sprintf("02:00:00:00:00:%02x", i+1) }

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func (h *Host) storeDisk(vm *VM, top string) string {
	return h.Store("microvm-store-disk.erofs", Files{"": Text("a disk with the closure of " + vm.HostName + " " + top[len(storeDir):len(storeDir)+32] + "\n")})
}

// qemu are the words of lib/runners/qemu.nix, of its machine microvm with PCI.
func (h *Host) qemu(vm *VM, kernel, initrd, top string) (words, raw, last []string) {
	pci := "device"
	machine := "microvm,accel=kvm:tcg,acpi=on,mem-merge=on,pcie=off,pic=off,pit=off,rtc=on,usb=" + onOff(len(vm.USB) > 0)
	if !vm.StoreOnDisk {
		pci, machine = "pci", strings.Replace(machine, "pcie=off", "pcie=on", 1)
	}
	words = []string{"-name", vm.HostName, "-M", machine, "-m", strconv.Itoa(vm.Mem) + "M", "-smp", strconv.Itoa(vm.VCPU),
		"-nodefaults", "-no-user-config", "-no-reboot", "-kernel", kernel, "-initrd", initrd,
		"-chardev", "stdio,id=stdio,signal=off", "-device", "virtio-rng-" + pci, "-smbios", "type=1,uuid=" + machineID(vm)}
	for _, u := range vm.USB {
		raw = append(raw, "-device", "usb-host,"+u)
	}
	for _, id := range sorted(vm.CredentialFiles) {
		last = append(last, "-fw_cfg", "name=opt/io.systemd.credentials/"+id+",file="+vm.CredentialFiles[id])
	}
	last = append(last, "-serial", "chardev:stdio", "-enable-kvm", "-cpu", "host,+x2apic,-sgx", "-device", "i8042",
		"-append", "earlyprintk=ttyS0 console=ttyS0 reboot=t panic=-1 "+h.kernelParams(vm, top))
	if vm.StoreOnDisk {
		last = append(last, "-drive", "id=store,format=raw,read-only=on,file="+h.storeDisk(vm, top)+",if=none,aio=io_uring", "-device", "virtio-blk-device,drive=store")
	}
	last = append(last, "-nographic", "-sandbox", "on", "-qmp", "unix:"+vm.socket()+",server,nowait")
	for i, v := range vm.Volumes {
		letter := string(rune('a' + i))
		if vm.StoreOnDisk {
			letter = string(rune('b' + i))
		}
		direct, serial := "", ""
		if v.Direct {
			direct = ",cache=none"
		}
		if v.Serial != "" {
			serial = ",serial=" + v.Serial
		}
		last = append(last, "-drive", "id=vd"+letter+",format=raw,file="+v.Image+",if=none,aio=io_uring,discard=unmap"+direct+",read-only="+onOff(v.ReadOnly),
			"-device", "virtio-blk-"+pci+",drive=vd"+letter+serial)
	}
	if !vm.StoreOnDisk {
		last = append(last, "-numa", "node,memdev=mem", "-object", fmt.Sprintf("memory-backend-memfd,id=mem,size=%dM,share=on", vm.Mem),
			"-chardev", "socket,id=fs0,path="+vm.HostName+"-virtiofs-ro-store.sock", "-device", "vhost-user-fs-pci,chardev=fs0,tag=ro-store")
	}
	for i, id := range vm.Taps {
		netdev, device := "tap,id="+id+",ifname="+id+",script=no,downscript=no", "virtio-net-"+pci+",netdev="+id+",mac="+mac(i)
		if pci == "pci" {
			device += ",romfile="
		}
		if vm.VCPU > 1 {
			netdev += fmt.Sprintf(",queues=%d", vm.VCPU)
			if pci == "pci" {
				device += fmt.Sprintf(",mq=on,vectors=%d", 2*vm.VCPU+2)
			}
		}
		last = append(last, "-netdev", netdev, "-device", device)
	}
	if len(vm.USB) > 0 {
		last = append(last, "-device", "qemu-xhci")
	}
	if vm.CID != 0 {
		last = append(last, "-device", fmt.Sprintf("vhost-vsock-%s,guest-cid=%d", pci, vm.CID))
	}
	return words, raw, append(last, vm.ExtraArgs...)
}

func machineID(vm *VM) string {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("microvm.nix:"+vm.HostName)))
	return strings.Join([]string{sum[:8], sum[8:12], sum[12:16], sum[16:20], sum[20:32]}, "-")
}

// firecracker is the store path of the JSON of lib/runners/firecracker.nix.
func (h *Host) firecracker(vm *VM, kernel, initrd, top string) string {
	drives := []string{drive("store", h.storeDisk(vm, top), true)}
	for _, v := range vm.Volumes {
		drives = append(drives, drive(v.Image, v.Image, v.ReadOnly))
	}
	var nets []string
	for i, id := range vm.Taps {
		nets = append(nets, fmt.Sprintf("    {\n      \"guest_mac\": %q,\n      \"host_dev_name\": %q,\n      \"iface_id\": %q\n    }", mac(i), id, id))
	}
	interfaces := "[]"
	if len(nets) > 0 {
		interfaces = "[\n" + strings.Join(nets, ",\n") + "\n  ]"
	}
	vsock := "null"
	if vm.CID != 0 {
		vsock = fmt.Sprintf("{\n    \"guest_cid\": %d,\n    \"uds_path\": \"notify.vsock\"\n  }", vm.CID)
	}
	return h.Store("firecracker-"+vm.HostName+".json", Files{"": Text(fmt.Sprintf(`{
  "boot-source": {
    "boot_args": %q,
    "initrd_path": %q,
    "kernel_image_path": %q
  },
  "drives": [
%s
  ],
  "machine-config": {
    "mem_size_mib": %d,
    "smt": true,
    "vcpu_count": %d
  },
  "network-interfaces": %s,
  "vsock": %s
}
`, "console=ttyS0,115200 reboot=k panic=1 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd "+h.kernelParams(vm, top), initrd, kernel,
		strings.Join(drives, ",\n"), vm.Mem, vm.VCPU, interfaces, vsock))})
}

func drive(id, path string, readOnly bool) string {
	return fmt.Sprintf("    {\n      \"drive_id\": %q,\n      \"io_engine\": \"Async\",\n      \"is_read_only\": %v,\n      \"is_root_device\": false,\n      \"path_on_host\": %q\n    }", id, readOnly, path)
}

// stratovirt are the words of lib/runners/stratovirt.nix behind those of unbuffer.
func (h *Host) stratovirt(vm *VM, kernel, initrd, top string) []string {
	words := []string{h.Package("stratovirt-2.4.0", "bin/stratovirt") + "/bin/stratovirt", "-name", vm.HostName, "-machine", "microvm",
		"-m", strconv.Itoa(vm.Mem), "-smp", strconv.Itoa(vm.VCPU), "-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 edd=off reboot=t panic=-1 " + h.kernelParams(vm, top), "-serial", "stdio",
		"-object", "rng-random,id=rng,filename=/dev/random", "-device", "virtio-rng-device,rng=rng,id=rng_dev"}
	if vm.StoreOnDisk {
		words = append(words, "-drive", "id=store,format=raw,readonly=on,file="+h.storeDisk(vm, top)+",if=none,aio=io_uring,direct=false",
			"-device", "virtio-blk-device,drive=store,id=blk_store")
	}
	words = append(words, "-qmp", "unix:"+vm.socket()+",server,nowait")
	if !vm.StoreOnDisk {
		words = append(words, "-chardev", "socket,id=fs0,path="+vm.HostName+"-virtiofs-ro-store.sock", "-device", "vhost-user-fs-device,chardev=fs0,tag=ro-store,id=fs0")
	}
	for i, id := range vm.Taps {
		netdev := fmt.Sprintf("tap,id=%[1]s,queues=%[2]d,ifname=%[1]s", id, vm.VCPU)
		if vm.VCPU > 1 {
			netdev += fmt.Sprintf(",queues=%d", vm.VCPU)
		}
		words = append(words, "-netdev", netdev,
			"-device", fmt.Sprintf("virtio-net-device,id=net_%[1]s,netdev=%[1]s,mac=%[2]s,mq=%[3]s", id, mac(i), onOff(vm.VCPU > 1)))
	}
	return words
}

// shutdown is microvm-shutdown.
func (h *Host) shutdown(vm *VM) string {
	curl := h.Package("curl-8.16.0-bin", "bin/curl") + "/bin/curl -s \\\n"
	switch vm.Hypervisor {
	case "cloud-hypervisor":
		return "api() {\n  " + curl + "    --unix-socket " + vm.socket() + " \\\n    $@\n}\n\napi -X PUT http://localhost/api/v1/vm.power-button\n\n" +
			h.Package("util-linux-2.41.2-bin", "bin/waitpid") + "/bin/waitpid $MAINPID\n"
	case "firecracker":
		return curl + "  --unix-socket " + vm.socket() + " \\\n  -X PUT http://localhost/actions \\\n  -d '{ \"action_type\": \"SendCtrlAltDel\" }'\n\n" +
			"# wait for exit\n" + h.socat() + " STDOUT UNIX:" + vm.socket() + ",shut-none\n"
	}
	keys := make([]string, 0, 3)
	for _, key := range []string{"ctrl", "alt", "delete"} {
		keys = append(keys, `{"data":{"down":true,"key":{"data":"`+key+`","type":"qcode"}},"type":"key"}`)
	}
	return "# Exit gracefully if QEMU is already gone (e.g., killed by machinectl)\nif [ ! -S " + vm.socket() + " ]; then\n  exit 0\nfi\n\n" +
		"(\n  echo '{\"execute\":\"qmp_capabilities\"}'\n\n  echo '{\"arguments\":{\"events\":[" + strings.Join(keys, ",") + "]},\"execute\":\"input-send-event\"}'\n\n" +
		"   # wait for exit\n  cat\n) | \\\n" + h.socat() + " STDIO UNIX:" + vm.socket() + ",shut-none\n"
}

// balloon is microvm-balloon.
func (h *Host) balloon(vm *VM) string {
	b := "set -e\n\nif [ -z \"$1\" ]; then\n  echo \"Usage: $0 <balloon-size-mb>\"\n  exit 1\nfi\n\nSIZE=$1\n"
	if vm.Hypervisor == "cloud-hypervisor" {
		return b + h.Package("cloud-hypervisor-48.0", "bin/cloud-hypervisor", "bin/ch-remote") + "/bin/ch-remote --api-socket " + vm.socket() + " resize --balloon $SIZE\"M\"\n\n"
	}
	return b + "VALUE=$(( $SIZE * 1024 * 1024 ))\nSIZE=$( (\n  echo '{\"execute\":\"qmp_capabilities\"}'\n\n  echo '{\"arguments\":{\"value\":987},\"execute\":\"balloon\"}'\n\n) | sed -e s/987/$VALUE/ | \\\n  " +
		h.socat() + " STDIO UNIX:" + vm.socket() + ",shut-none | \\\n  tail -n 1 | \\\n  " + h.Package("jq-1.8.1-bin", "bin/jq") + "/bin/jq -r .data.actual \\\n)\necho $(( $SIZE / 1024 / 1024 ))\n\n"
}
