package fake

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
)

// vmm is the state of the process. All that changes it runs on one goroutine,
// the loop, as it does on one thread in the real one.
type vmm struct {
	log        *logger
	events     *monitor
	stdin      *os.File
	stdout     *os.File
	stderr     *os.File
	listener   net.Listener
	socket     string // its path, if it is ours
	actions    map[string]action
	faults     *faults
	noShutdown bool
	version    string

	http    sync.Mutex     // requests are answered one by one
	replies sync.WaitGroup // that are being written
	calls   chan func()
	signals chan notice
	done    chan struct{} // the loop has ended
	typed   chan []byte   // for the guest

	readTerminal sync.Once
	waiting      atomic.Pointer[guest] // for the answer to vm.boot

	// What follows belongs to the loop.
	config  *vm
	console *consoles
	machine *machine
	section int // of the guest's script, for the next boot
	over    bool
	code    int
	fatal   []string
}

// notice is what the loop hears from elsewhere.
type notice struct {
	kind    signalKind
	machine *machine // whose guest it is; nil for the process
}

type signalKind int

const (
	exitAsked  signalKind = iota // SIGTERM, SIGINT
	guestExit                    // the guest powered off
	guestReset                   // or wants to start again
)

// loop runs until the process has reason to end.
func (v *vmm) loop() {
	defer close(v.done)
	for !v.over {
		select {
		case call := <-v.calls:
			call()
		case s := <-v.signals:
			v.hear(s)
		}
	}
}

func (v *vmm) hear(s notice) {
	if s.kind != exitAsked && s.machine != v.machine {
		return // a guest that is gone meanwhile
	}
	switch s.kind {
	case exitAsked:
		v.log.info("vmm/src/lib.rs:2080", "VM exit event")
		v.end()
	case guestExit:
		if v.noShutdown {
			if f := v.shutdownVM(); f != nil {
				v.die(f.under("VMM thread exited with error", "Error shutting down VM"))
			}
			return
		}
		v.end()
	case guestReset:
		if f := v.reboot(); f != nil {
			v.die(f.under("VMM thread exited with error", "Error rebooting VM"))
		}
	}
}

// end shuts the VM down and lets the process exit.
func (v *vmm) end() {
	v.loseEvents()
	if f := v.shutdownAll(); f != nil {
		v.die(f.under("VMM thread exited with error", "Error shutting down VMM"))
		return
	}
	v.over = true
}

// loseEvents plays the real one's race at its end: nobody waits for the thread
// that writes the events.
func (v *vmm) loseEvents() {
	if f := v.faults.find("events"); f != nil && f.request == "events" && f.what == "lose" {
		v.events.lose()
	}
}

// panics is what the thread of the loop does where it is not prepared for what it
// is told. The process goes with it; whether the answer still comes is a race.
func (v *vmm) panics() *failure {
	v.die(fail("Failed to join on VMM thread: Any { .. }"))
	return brokenChannel()
}

// die lets the process exit with the reason. There is no event for that.
func (v *vmm) die(f *failure) {
	v.over, v.code, v.fatal = true, 1, f.chain
}

// call runs something on the loop.
func (v *vmm) call(do func() response) response {
	out := make(chan response, 1)
	select {
	case v.calls <- func() { out <- do() }:
		return <-out
	case <-v.done:
		return v.failed(brokenChannel())
	}
}

// brokenChannel is the answer when the loop is gone.
func brokenChannel() *failure {
	return fail("API response receive error", "receiving on a closed channel")
}

func (v *vmm) ping([]byte) response {
	v.log.info("vmm/src/api/mod.rs:1843", "API request event: VmmPing")
	body, err := json.Marshal(struct {
		Build    string   `json:"build_version"`
		Version  string   `json:"version"`
		PID      int      `json:"pid"`
		Features []string `json:"features"`
	}{v.version, strings.TrimPrefix(v.version, "v"), os.Getpid(), features()})
	if err != nil {
		return v.failed(fail(err.Error()))
	}
	return answer(200, body)
}

// shutdownVMM answers before the process ends.
func (v *vmm) shutdownVMM([]byte) response {
	v.log.info("vmm/src/api/mod.rs:1878", "API request event: VmmShutdown")
	v.loseEvents()
	if f := v.shutdownAll(); f != nil {
		return v.failed(f.under("The VMM could not shutdown"))
	}
	v.over = true
	return answer(200, nil)
}

func (v *vmm) shutdownAll() *failure {
	if f := v.deleteVM(); f != nil {
		return f
	}
	v.events.emit("vmm", "shutdown", nil)
	return nil
}

// create stores the configuration. Hardly anything of it is looked at before the
// VM boots. One that fails behind that point is stored all the same.
func (v *vmm) create(body []byte) response {
	config, problem := decodeVM(body)
	if problem != nil {
		return v.refused(400, []string{"Failed to deserialize JSON", problem.complete(body)})
	}
	for _, name := range []string{"net", "devices"} {
		all, _ := config.shown.get(name).([]any)
		for _, device := range all {
			v.dropFDs(device.(*object))
		}
	}
	for i := range config.set.Nets {
		config.set.Nets[i].FDs = nil
	}
	v.log.info("vmm/src/api/mod.rs:1278", "API request event: VmCreate "+debug(config.shown))
	if v.config != nil {
		return v.failed(alreadyCreated().under("The VM could not be created"))
	}
	v.config = config
	v.section = 0
	v.faults.add(option(config.set.cmdline(), "fake.vmm"))
	if f := v.openConsoles(); f != nil {
		if v.over {
			return v.failed(f)
		}
		return v.failed(f.under("The VM could not be created"))
	}
	if config.set.Landlock {
		if f := config.set.checkLandlock(); f != nil {
			return v.failed(f.under("The VM could not be created", "Failed to apply landlock config during vm_create"))
		}
	}
	return answer(204, nil)
}

func (v *vmm) boot() *failure {
	v.log.info("vmm/src/api/mod.rs:1169", "API request event: VmBoot")
	if v.machine != nil {
		return alreadyCreated()
	}
	v.events.emit("vm", "booting", nil)
	if v.config == nil {
		return missingConfig()
	}
	if v.console == nil {
		if f := v.openConsoles(); f != nil {
			return f
		}
	}
	if f := v.start(); f != nil {
		return f
	}
	v.events.emit("vm", "booted", nil)
	v.waiting.Store(v.machine.guest)
	return nil
}

// release lets a guest begin. A real one takes longer than the answer to vm.boot,
// and its first words, or its end, come behind it.
func (v *vmm) release() {
	if g := v.waiting.Swap(nil); g != nil {
		close(g.begin)
	}
}

// start builds a machine and boots it. A machine that was built stays where it
// cannot boot, in the state Created, and is in the way of the next attempt.
func (v *vmm) start() *failure {
	m, f := newMachine(v)
	if f != nil {
		return f
	}
	v.machine = m
	return m.boot()
}

func (v *vmm) shutdownVM() *failure {
	if v.machine == nil {
		return notRunning()
	}
	v.stopMachine()
	v.events.emit("vm", "shutdown", nil)
	return nil
}

func (v *vmm) stopMachine() {
	v.machine.stop()
	v.console.close()
	v.machine, v.console = nil, nil
}

func (v *vmm) deleteVM() *failure {
	if v.config == nil {
		return nil
	}
	if v.machine != nil {
		if f := v.shutdownVM(); f != nil {
			return f
		}
	}
	closeFDs(v.config.fds)
	v.config = nil
	v.events.emit("vm", "deleted", nil)
	return nil
}

// reboot builds everything anew from the stored configuration: the files that it
// names are opened again. What fails in between leaves no machine.
func (v *vmm) reboot() *failure {
	v.events.emit("vm", "rebooting", nil)
	if v.machine == nil {
		return notCreated()
	}
	v.stopMachine()
	if f := v.openConsoles(); f != nil {
		return f
	}
	m, f := newMachine(v)
	if f == nil {
		f = m.boot()
	}
	if f != nil {
		if m != nil {
			m.stop()
		}
		return f
	}
	v.machine = m
	v.events.emit("vm", "rebooted", nil)
	close(m.guest.begin)
	return nil
}

func (v *vmm) pause() *failure {
	if v.machine == nil {
		return notRunning()
	}
	v.events.emit("vm", "pausing", nil)
	if f := v.machine.change("Paused"); f != nil {
		return f.under("Cannot pause VM", "Failed to pause migratable component")
	}
	v.events.emit("vm", "paused", nil)
	return nil
}

func (v *vmm) resume() *failure {
	if v.machine == nil {
		return notRunning()
	}
	v.events.emit("vm", "resuming", nil)
	if f := v.machine.change("Running"); f != nil {
		return f.under("Cannot resume VM", "Failed to resume migratable component")
	}
	v.events.emit("vm", "resumed", nil)
	return nil
}

// powerButton is taken by a machine that has not booted, too.
func (v *vmm) powerButton() *failure {
	if v.machine == nil {
		return notRunning()
	}
	v.machine.press()
	return nil
}

func (v *vmm) nmi() *failure {
	if v.machine == nil {
		return notRunning()
	}
	return nil
}

func (v *vmm) counters([]byte) response {
	if v.machine == nil {
		return v.failed(notRunning().under("The VM info is not available"))
	}
	return answer(200, []byte("{}"))
}

// info shows all that was stored, secrets included, to whoever asks.
func (v *vmm) info([]byte) response {
	v.log.info("vmm/src/api/mod.rs:1346", "API request event: VmInfo")
	if v.config == nil {
		return v.failed(notCreated().under("The VM info is not available"))
	}
	out := &object{entries: []entry{{"config", v.config.shown}, {"state", "Created"}, {"memory_actual_size", v.actualSize()}}}
	if v.machine != nil {
		out.entries[1].value = v.machine.state
		out.entries = append(out.entries, entry{"device_tree", v.machine.tree()})
	}
	body, err := json.Marshal(out)
	if err != nil {
		return v.failed(fail(err.Error()))
	}
	return answer(200, body)
}
