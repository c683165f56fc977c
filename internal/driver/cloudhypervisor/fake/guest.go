package fake

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// guest plays the script on the kernel command line.
type guest struct {
	machine *machine
	console *consoles
	cmdline string
	section int
	begin   chan struct{} // closed when it may say its first word
	ended   chan struct{} // closed by stop
	over    chan struct{} // closed when nothing is played any more
	button  chan struct{}

	mu      sync.Mutex
	running *sync.Cond
	held    bool
	gone    bool
	deaf    bool

	takes   atomic.Bool // it obeys the balloon and virtio-mem
	devices []device    // those that it starts with

	echo bool // the guest's own
}

func newGuest(m *machine) *guest {
	g := &guest{
		machine: m, console: m.vmm.console, cmdline: m.set.cmdline(), section: m.vmm.section,
		devices: slices.Clone(m.devices),
		begin:   make(chan struct{}), ended: make(chan struct{}), over: make(chan struct{}), button: make(chan struct{}, 1),
	}
	m.vmm.section++
	g.running = sync.NewCond(&g.mu)
	return g
}

// run is the life of the guest.
func (g *guest) run() {
	defer close(g.over)
	select {
	case <-g.begin:
	case <-g.ended:
		return
	}
	g.say("[    0.000000] Linux version 6.1.0 (stand-in)")
	g.say("[    0.000000] Command line: " + g.cmdline)
	for _, d := range g.devices {
		g.machine.vmm.events.emit("virtio-device", "activated", map[string]string{"id": d.id})
	}
	for _, s := range parseScript(option(g.cmdline, "fake.guest"), g.section) {
		if !g.play(s) {
			return
		}
	}
	g.wait(-1)
}

// play returns false when nothing more will happen.
func (g *guest) play(s step) bool {
	switch s.verb {
	case "say":
		return g.say(s.argument)
	case "wait":
		return g.wait(s.duration)
	case "notify":
		return g.notify(s.argument)
	case "echo-secret-digest":
		return g.sayDigests()
	case "echo-input":
		g.echo = true
	case "ignore-power", "heed-power":
		g.mu.Lock()
		g.deaf = s.verb == "ignore-power"
		g.mu.Unlock()
	case "take-memory":
		g.takes.Store(true)
	case "vmm":
		g.machine.vmm.faults.add(s.argument)
	case "crash":
		exit(s.number)
	case "signal":
		dieBy(s.number)
	default:
		g.finish(s)
		return false
	}
	return true
}

// finish plays the steps that the guest does not come back from.
func (g *guest) finish(s step) {
	switch s.verb {
	case "poweroff":
		g.powerOff()
	case "vcpu-error":
		g.machine.vmm.log.error("vcpu0", "vmm/src/cpu.rs:1460", "VCPU generated error")
		g.tell(exitAsked)
	case "reboot":
		g.say("reboot: Restarting system")
		g.tell(guestReset)
	case "triple-fault":
		g.machine.vmm.log.error("vcpu0", "hypervisor/src/kvm/mod.rs:2531", "Guest likely triple-faulted")
		g.tell(guestReset)
	case "panic":
		g.panic(s.argument)
	case "halt":
		g.say("reboot: System halted")
		g.hang()
	case "hang":
		g.hang()
	}
}

func (g *guest) powerOff() {
	g.say("reboot: Power down")
	g.tell(guestExit)
}

// panic is a panic of the kernel. It tells the device, and then waits as long as
// panic= on the command line says: for ever, unless it does.
func (g *guest) panic(reason string) {
	g.say("Kernel panic - not syncing: " + reason)
	if g.machine.set.PVPanic {
		g.machine.vmm.events.emit("guest", "panic", map[string]string{"event": "panic"})
	}
	seconds, _ := strconv.Atoi(option(g.cmdline, "panic"))
	if seconds > 0 {
		g.say(fmt.Sprintf("Rebooting in %d seconds..", seconds))
		select {
		case <-time.After(time.Duration(seconds) * time.Second):
		case <-g.ended:
			return
		}
	}
	if seconds != 0 {
		g.tell(guestReset)
		return
	}
	g.say("---[ end Kernel panic - not syncing: " + reason + " ]---")
	g.hang()
}

func (g *guest) hang() { <-g.ended }

// tell asks the loop for what a guest may ask for.
func (g *guest) tell(kind signalKind) {
	select {
	case g.machine.vmm.signals <- notice{kind: kind, machine: g.machine}:
	case <-g.ended:
	}
}

// say writes a line to the serial port, unless the guest is gone.
func (g *guest) say(line string) bool {
	if !g.pass() {
		return false
	}
	_, _ = g.console.serial.Write([]byte(line + "\r\n"))
	return true
}

// wait lets time pass, for ever if it is negative, and listens to the button.
func (g *guest) wait(d time.Duration) bool {
	var timer <-chan time.Time
	if d >= 0 {
		timer = time.After(d)
	}
	for {
		select {
		case <-timer:
			return g.pass()
		case <-g.ended:
			return false
		case data := <-g.typed():
			_, _ = g.console.serial.Write(data)
		case <-g.button:
			g.mu.Lock()
			deaf := g.deaf
			g.mu.Unlock()
			if deaf {
				continue
			}
			if g.pass() {
				g.powerOff()
			}
			return false
		}
	}
}

// pass waits while the VM is paused. It returns false when the guest is gone.
func (g *guest) pass() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.held && !g.gone {
		g.running.Wait()
	}
	return !g.gone
}

func (g *guest) hold(held bool) {
	g.mu.Lock()
	g.held = held
	g.mu.Unlock()
	g.running.Broadcast()
}

// press presses the power button. A guest hears it when it next waits, unless it
// ignores the button at this moment.
func (g *guest) press() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.deaf {
		return
	}
	select {
	case g.button <- struct{}{}:
	default:
	}
}

// stop takes the processors away.
func (g *guest) stop() {
	g.mu.Lock()
	if !g.gone {
		g.gone = true
		close(g.ended)
	}
	g.mu.Unlock()
	g.running.Broadcast()
}

// typed is what the guest reads from its console, once it does.
func (g *guest) typed() <-chan []byte {
	if !g.echo {
		return nil
	}
	return g.machine.vmm.typed
}
