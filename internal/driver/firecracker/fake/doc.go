// Package fake is for tests alone: a stand-in for Firecracker's process and
// API.
//
// It imitates version 1.16.1 on x86_64. It takes what that version takes and
// refuses what it refuses, with the same status and in the same words, apart
// from names of system errors, which differ from one C library to another. The
// facts are from these files of the tag v1.16.1:
//
//   - arguments, exit codes, standard error: src/firecracker/src/main.rs,
//     api_server_adapter.rs, src/utils/src/arg_parser.rs, validators.rs,
//     src/vmm/src/lib.rs
//   - HTTP: micro_http at commit 876f3fec (src/connection.rs, request.rs,
//     response.rs, server.rs, common/headers.rs)
//   - requests, order, answers: src/firecracker/src/api_server (mod.rs,
//     parsed_request.rs, request/*.rs), src/vmm/src/rpc_interface.rs
//   - bodies and their rules: src/vmm/src/vmm_config/*.rs, resources.rs,
//     devices/virtio/block, serde_json 1.0.150
//   - InstanceStart: src/vmm/src/builder.rs, arch/x86_64/mod.rs and layout.rs,
//     initrd.rs, device_manager, linux-loader 0.13.2 (cmdline, loader/elf)
//   - log: src/vmm/src/logger/logging.rs
//   - console, keyboard, vsock: src/vmm/src/devices/legacy/serial.rs and
//     i8042.rs, devices/virtio/vsock/unix/muxer.rs, csm/connection.rs
//
// # What may surprise
//
//   - The log goes to standard output, between the words of the guest. At Info,
//     the default, it has all bodies but those of /mmds. At Error it still has
//     every mistake in a body, with the value in question, and each lost byte of
//     the console. Only --level Off is silent; mistakes that end the program are
//     on standard error at any level. PUT /logger without a level is Info.
//   - Both sockets are there until somebody removes them. The one of the vsock
//     is bound by PUT /vsock.
//   - PUT /boot-source opens both files; what is in them is looked at by
//     InstanceStart, which reads the initial RAM disk from where the last reading
//     ended: before another InstanceStart, PUT /boot-source again.
//   - The command line has 2048 bytes with the NUL at its end. InstanceStart adds
//     " pci=off" (8 bytes), for a root device " root=/dev/vda rw" (17) and for
//     each balloon, drive, network, vsock, entropy and virtio-mem device " virtio_mmio.device=4K@0xc0001000:5"
//     (35, or 36 from the sixth on), before a " -- ".
//   - PUT /network-interfaces opens the tap at once, by its name, in the network
//     namespace of the program, and makes it where there is none; one of several
//     queues is refused. Nothing of the balloon or of virtio-mem can be changed
//     before the guest's driver is there.
//   - A guest that powers off halts; the program goes on. A reset by the
//     keyboard controller ends it with exit code 0. A processor that fails, as by
//     a triple fault, ends it with 1 and one line on standard error, and now and
//     then with 0 and nothing: the program looks before the processor has told.
//     Only the last words on the console tell a reboot from that.
//   - The fifth Ctrl-Alt-Del that nobody reads is refused. GET /vm/config tells
//     the command line to everybody who can connect.
//   - A client that closes its sending half gets no answer.
//   - From InstanceStart on, standard output does not block, nor does standard
//     input where both are the same socket. What is not read in time is lost.
//     Input from a socket is first looked for when the guest has read the port
//     once, as the driver of Linux does at its start.
//
// # Not played
//
// Requests of /cpu-config, /mmds, /pmem and /snapshot, hints of free pages, PATCH
// of all but /machine-config, /balloon and /hotplug/memory, DELETE, and vhost-user
// drives: status 501, which the real program does not have. Arguments that need
// them, --config-file, --no-api and --seccomp-filter: exit code 70. A panic of
// the real program, which dies by SIGABRT, is the exit code 134. The kernel is
// read and not executed; /dev/kvm is not touched.
//
// # The guest
//
// The parameter fake.guest= of the kernel's command line is a script, a list of
// words with commas between them; in quotes, for spaces. One that cannot be read
// is refused by InstanceStart:
//
//	say:TEXT            says a line
//	print:TEXT          says it without an end of line
//	wait:DURATION       waits, as by time.ParseDuration
//	echo                waits for a line on the console and says it: "echo: LINE"
//	notify:TEXT         sends a message as systemd does, \n standing for a new line,
//	                    to the port in the credential vmm.notify_socket, and waits
//	                    until it is closed
//	echo-secret-digest  says [Digest] of each credential in the initial RAM disk
//	                    and "credentials: N"
//	ignore-cad          Ctrl-Alt-Del is read and nothing is made of it
//	no-keyboard         it is not read; the fifth is refused
//	take-memory         the drivers of the balloon and of virtio-mem are there, and do
//	                    what they are asked at once
//	reboot              "reboot: Restarting system", exit code 0; with reboot=t in
//	                    the command line a triple fault: 1
//	poweroff            "reboot: Power off not available: System halted instead", as
//	                    Linux says since 6.5 on a machine without ACPI's S5, and
//	                    the machine stands still; poweroff:TEXT says TEXT instead
//	halt                the same with "reboot: System halted", which is what older
//	                    kernels say of a power-off too
//	panic:REASON        "Kernel panic - not syncing: REASON"; then, by panic= in the
//	                    command line, a reset: exit code 0, or nothing more
//	crash:CODE          the program ends with that exit code, 0 included, and says
//	                    why on standard error where it is 1
//	kill:NUMBER         the process gets that signal
//
// Sections have a ";" between them: a program that is started again by the same
// link, as after a reboot, plays the next one, and the last one from then on.
// After the last word, or without a script, the guest waits for Ctrl-Alt-Del,
// which is a reboot in any case where nothing else is said.
package fake
