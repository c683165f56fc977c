// Package fake is a stand-in for cloud-hypervisor v53.0: the process, its HTTP
// API, its event monitor and its serial console, without a hypervisor. It is a
// library for tests alone. A test binary becomes the program by being executed
// through a link named cloud-hypervisor ([Install], [RunIfCalled]).
//
// It refuses what v53.0 refuses, at the same moment and with the same status and
// words, so that a driver that works with it works with the real one. The
// conformance package next to this one runs one table of cases against both. The
// facts are from these files of the tag v53.0:
//
//	cloud-hypervisor/src/main.rs      options, exit codes, what is printed where
//	event_monitor/src/lib.rs          the form of events
//	vmm/src/api/http/                 paths, methods, bodies, statuses
//	vmm/src/lib.rs                    the order of things, and their events
//	vmm/src/vm_config.rs              names and types of the configuration
//	vmm/src/config.rs                 what is checked when the VM boots
//	vmm/src/vm.rs                     what is opened when, states
//	vmm/src/memory_manager.rs         sizes of memory, what is added while it runs
//	vmm/src/device_manager.rs         the order of devices
//	virtio-devices/src/net.rs, mem.rs, balloon.rs, vhost_user/fs.rs
//	net_util/src/open_tap.rs, tap.rs  what is done to a tap
//	block/src/lib.rs, formats/        formats of disks
//	vmm/src/serial_manager.rs         whose input reaches the guest
//	virtio-devices/src/vsock/         the socket and its ports
//	devices/src/pvpanic.rs, acpi.rs   how a guest panics, powers off, resets
//
// and from what it is linked with: micro_http at 5c2254d, which has its own idea
// of HTTP and takes bodies of at most 51200 bytes, linux-loader 0.13.2 for kernels
// and command lines, serde_json 1.0.150 for the words about wrong JSON, clap 4.6.1
// for those about wrong options.
//
// What it does not play, it refuses with words of its own that say so: network
// devices behind vhost-user, persistent memory, passthrough where there is an IOMMU,
// NUMA, zones of memory, consoles on a pseudo terminal of its own, firmware, hotplug
// but of network devices, disks with a backing file, snapshots and migration. Taps are
// opened and set up as the real one does, and carry nothing; who listens behind a
// share is connected to, and asked nothing. Seccomp filters are accepted and not applied; of Landlock it plays what
// is refused at vm.create, and confines nothing. The guest's memory is not reserved:
// a size that no host has is accepted.
//
// # The guest
//
// The guest plays the script in the word fake.guest= of the kernel command line.
// A script consists of sections separated by semicolons: the first boot plays the
// first section, each reboot the next one, and the last section is played again
// and again. A section consists of steps separated by commas; a step is a verb,
// some with an argument behind a colon, in which %20 stands for a space, and so
// on. When all steps of a section are done, the guest runs until somebody presses
// the power button.
//
//	say:TEXT             a line on the console
//	wait:DURATION        time passes, as in 300ms
//	notify:TEXT          a message to the service manager of the host, over vsock,
//	                     to where the credential vmm.notify_socket says
//	echo-secret-digest   a line for each credential that has arrived: where it came
//	                     from, its name, the length of its value and the SHA-256
//	echo-input           from here on, what is typed comes back
//	ignore-power         from here on, the power button does nothing
//	heed-power           and from here on, it does again
//	take-memory          from here on, it obeys the balloon and virtio-mem at once
//	reboot               the guest resets the machine
//	poweroff             the guest powers it off
//	halt                 the processors stop for ever, with a word
//	hang                 they stop without one
//	triple-fault         the processor gives up, which resets the machine
//	vcpu-error           KVM gives up, which ends the process as a power-off does
//	panic:REASON         the kernel panics: it tells the panic device, where there
//	                     is one, and obeys panic= on its command line
//	crash:CODE           the process of the hypervisor ends with that code
//	signal:NUMBER        the process of the hypervisor ends by that signal
//	vmm:FAULTS           from here on, the hypervisor misbehaves
//
// Without fake.guest= the guest says a few lines and runs. At a press of the power
// button the guest says "reboot: Power down" and powers off.
//
// # Faults
//
// The hypervisor misbehaves by [Options.Faults], by the word fake.vmm= of the
// kernel command line from vm.create on, or by the step vmm:. Faults are separated
// by a plus sign; each is REQUEST:WHAT[:HOW], where REQUEST is the last part of a
// path such as vm.boot, or * for any.
//
//	late:DURATION   the answer comes late
//	mute            no answer comes
//	close           the connection is closed instead
//	garbage         what comes is not HTTP
//	cut             half of the answer comes, and the end of the connection
//	quote           a refusal that quotes what the request said: the body
//	die:CODE        the process ends before it does what is asked
//	die-after:CODE  the process ends when it has answered
//
// and events:lose drops the events of the end of the process, which the real one
// does now and then: it does not wait for the thread that writes them.
package fake
