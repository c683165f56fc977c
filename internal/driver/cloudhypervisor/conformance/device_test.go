package conformance

// deviceCases are about files and sockets of devices: vmm/src/device_manager.rs,
// vmm/src/console_devices.rs.
func deviceCases() []scenario {
	end := put("vmm.shutdown", 200, "")
	refused := func(name, body, says string) scenario {
		return scenario{name: name, requests: []request{
			{"PUT", "vm.create", body, 500, `^\["Error from API","The VM could not be created",` + says + `\]$`},
			get("vm.info", 200, `"state":"Created"`), {"PUT", "vm.create", boots(), 500, already}, put("vm.delete", 204, ""), create(boots()), end,
		}, events: "vm:deleted vm:deleted vmm:shutdown"}
	}
	return []scenario{
		bootCase("disk: not there", boots(`"disks":[{"path":"nowhere"}]`), `"Error from device manager","Cannot open disk path","I/O error \(path=nowhere op=open\)","No such file or directory \(os error 2\)"`),
		bootCase("disk: no path", boots(`"disks":[{}]`), `"Error from device manager","No disk path was specified when one was expected"`),
		bootCase("disk: too small to be one", boots(`"disks":[{"path":"short"}]`), `"Error from device manager","Cannot open disk path","I/O error \(op=detect_image_type\)","failed to fill whole buffer"`),
		bootCase("disk: not what it is said to be", boots(`"disks":[{"path":"disk","image_type":"Qcow2"}]`), `"Error from device manager","Disk image type does not match expected type: specified = qcow2, detected = raw"`),
		bootCase("disk: twice for writing", boots(`"disks":[{"path":"disk","image_type":"Raw"},{"path":"disk","image_type":"Raw"}]`),
			`"Error locking disk images: Another instance likely holds a lock","Cannot lock images of all block devices","Failed to get Write lock for disk image: disk","The file is already locked"`),
		bootCase("rng: no source", boots(`"rng":{"src":"nowhere"}`), `"Error from device manager","Cannot create virtio-rng device","No such file or directory \(os error 2\)"`),
		bootCase("vsock: something is there", boots(`"vsock":{"cid":3,"socket":"text"}`), `"Error from device manager","Cannot create virtio-vsock backend","Error binding to the host-side Unix socket","Address already in use \(os error 98\)"`),
		bootCase("vsock: no directory", boots(`"vsock":{"cid":3,"socket":"nowhere/v"}`), `"Error from device manager","Cannot create virtio-vsock backend","Error binding to the host-side Unix socket","No such file or directory \(os error 2\)"`),
		{name: "disks twice for reading, vsock over reboots", requests: []request{
			create(boots(`"disks":[{"path":"disk","readonly":true,"image_type":"Raw"},{"path":"disk","readonly":true}]`, `"vsock":{"cid":3,"socket":"v"}`, `"watchdog":true`, `"pvpanic":true`)),
			put("vm.boot", 204, ""), get("vm.info", 200, `"disks":\[\{"id":"_disk0",.*"image_type":"Raw".*\{"id":"_disk1",.*"image_type":"Raw".*"vsock":\{"id":"_vsock2",`),
			put("vm.reboot", 204, ""), put("vm.shutdown", 204, ""), put("vm.boot", 204, ""), end,
		}, loose: true, events: "vm:booting vm:booted vm:rebooting vm:rebooted vm:shutdown " + wholeLife},
		refused("console: socket", boots(`"console":{"mode":"Socket","socket":"c"}`), `"Error creating console devices","No socket option support for console device"`),
		refused("serial: file in no directory", boots(`"serial":{"mode":"File","file":"nowhere/f"}`), `"Error creating console devices","Error creating console device","No such file or directory \(os error 2\)"`),
		refused("serial: socket where something is", boots(`"serial":{"mode":"Socket","socket":"text"}`), `"Error creating console devices","Error creating console device","Address already in use \(os error 98\)"`),
	}
}

// guestCases are about what a guest does. The real one runs a few bytes of machine
// code, which can do what needs no driver; the rest is in package fake's script.
func guestCases() []scenario {
	return []scenario{
		{name: "guest: powers off", requests: []request{create(guest("poweroff", "")), put("vm.boot", 204, "")}, events: wholeLife, exit: exitByItself},
		{name: "guest: resets for ever", requests: []request{
			create(guest("reboot", "")), put("vm.boot", 204, ""), await("vm:rebooted"), await("vm:rebooted"), put("vmm.shutdown", 200, ""),
		}, loose: true},
		{name: "guest: tells of a panic and goes on", requests: []request{
			create(guest("panic", `"pvpanic":true`)), put("vm.boot", 204, ""), await("guest:panic"), get("vm.info", 200, `"state":"Running"`), put("vmm.shutdown", 200, ""),
		}, loose: true}, // the event may come before vm:booted
		{name: "guest: says a word", requests: []request{create(guest("word", `"serial":{"mode":"Tty"}`)), put("vm.boot", 204, ""), await("console:OK"), put("vmm.shutdown", 200, "")}, events: wholeLife},
		{name: "guest: powers off, and the process stays", args: []string{"--no-shutdown"}, requests: []request{
			create(guest("poweroff", "")), put("vm.boot", 204, ""), await("vm:shutdown"), get("vm.info", 200, `"state":"Created"`), put("vmm.shutdown", 200, ""),
		}, loose: true, events: wholeLife},
		{name: "SIGTERM", requests: []request{create(boots()), put("vm.boot", 204, "")}, events: wholeLife, exit: exitByTerm},
	}
}

// guest is a VM whose guest does something, in machine code and in words.
func guest(what, change string) string {
	script := map[string]string{"poweroff": "poweroff", "reboot": "reboot", "panic": "panic:oh", "word": "say:OK", "echo": "echo-input"}[what]
	changes := []string{`"payload":{"kernel":"` + what + `","cmdline":"fake.guest=` + script + `"}`}
	if change != "" {
		changes = append(changes, change)
	}
	return boots(changes...)
}
