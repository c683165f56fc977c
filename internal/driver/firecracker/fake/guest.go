package fake

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// guest is what runs in the machine: a few lines of a kernel, then a script.
type guest struct {
	p        *process
	out      io.Writer
	line     cmdline
	initrd   []byte
	vsock    string // path of the socket; "" without the device
	script   []word
	keyboard *keyboard
	began    time.Time

	takesMemory bool   // its drivers of balloon and virtio-mem are there
	requested   uint64 // of virtio-mem, in MiB
}

// keyboard is the i8042 controller: 16 bytes, of which Ctrl-Alt-Del takes four,
// and a guest that empties them or does not.
type keyboard struct {
	mu      sync.Mutex
	served  bool // somebody reads
	bytes   int
	pressed chan struct{} // room for one
}

const keyboardBuffer, threeKeys = 16, 4

// press is Ctrl-Alt-Del from outside.
func (k *keyboard) press() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if keyboardBuffer-k.bytes < threeKeys {
		return words("i8042 internal buffer full.")
	}
	if !k.served {
		k.bytes += threeKeys
		return nil
	}
	select {
	case k.pressed <- struct{}{}:
	default:
	}
	return nil
}

// abandon: from now on nobody reads.
func (k *keyboard) abandon() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.served = false
}

func (p *process) newGuest(line cmdline, initrd []byte, out io.Writer) (*guest, error) {
	text, _ := line.value("fake.guest")
	script, err := parseScript(text, p.setup.countBoot())
	if err != nil {
		return nil, err
	}
	g := &guest{p: p, out: out, line: line, initrd: initrd, script: script, began: time.Now(),
		keyboard: &keyboard{served: !has(script, "no-keyboard"), pressed: make(chan struct{}, 1)}}
	if has(script, "ignore-cad") {
		g.keyboard.pressed = nil // read, and nothing made of it
	}
	if p.vm.vsock != nil {
		g.vsock = p.vm.vsock.path
		go refuse(p.vm.vsock.listener)
	}
	return g, nil
}

// kernel says something as the kernel does.
func (g *guest) kernel(format string, args ...any) {
	fmt.Fprintf(g.out, "[%12.6f] %s\r\n", time.Since(g.began).Seconds(), fmt.Sprintf(format, args...))
}

// say says something as a program does.
func (g *guest) say(format string, args ...any) {
	fmt.Fprintf(g.out, "%s\r\n", fmt.Sprintf(format, args...))
}

// play runs the script. One that does not end the machine ends in a guest that
// waits to be told.
func (g *guest) play() {
	g.p.mu.Lock() // until InstanceStart is answered
	g.kernel("Linux version 6.12.0-fake (stand-in)")
	g.p.mu.Unlock()
	g.kernel("Command line: %s", g.line)
	first := "/sbin/init"
	if g.initrd != nil {
		first = "/init"
	}
	if path, ok := g.line.value("rdinit"); ok && g.initrd != nil {
		first = path
	} else if path, ok := g.line.value("init"); ok {
		first = path
	}
	g.kernel("Run %s as init process", first)
	for _, w := range g.script {
		if g.act(w) {
			return
		}
	}
	<-g.keyboard.pressed
	g.reboot()
}

// act does one word; true: nothing comes after it.
func (g *guest) act(w word) bool {
	switch w.name {
	case "say":
		g.say("%s", w.arg)
	case "print":
		fmt.Fprint(g.out, w.arg)
	case "wait":
		return g.until(time.After(w.duration()))
	case "echo":
		return g.echo()
	case "notify":
		return g.notify(w.arg)
	case "echo-secret-digest":
		g.digests()
	case "take-memory":
		g.p.mu.Lock()
		g.takesMemory = true
		g.p.mu.Unlock()
	case "reboot":
		g.reboot()
		return true
	case "poweroff":
		if w.arg == "" {
			w.arg = "Power off not available: System halted instead"
		}
		g.halt(w.arg)
		return true
	case "halt":
		g.halt("System halted")
		return true
	case "panic":
		g.panic(w.arg)
		return true
	case "crash":
		g.p.end(outcome{w.number(), w.number() != ExitGeneric})
		return true
	case "kill":
		_ = syscall.Kill(syscall.Getpid(), syscall.Signal(w.number()))
		select {}
	}
	return false
}

// until waits for something, or for Ctrl-Alt-Del.
func (g *guest) until(done <-chan time.Time) bool {
	select {
	case <-done:
		return false
	case <-g.keyboard.pressed:
		g.reboot()
		return true
	}
}

// during does something that may take its time, and leaves it where
// Ctrl-Alt-Del comes.
func (g *guest) during(f func(stop <-chan struct{})) bool {
	stop, done := make(chan struct{}), make(chan time.Time)
	go func() {
		defer close(done)
		f(stop)
	}()
	defer close(stop)
	return g.until(done)
}

func (g *guest) echo() bool {
	return g.during(func(stop <-chan struct{}) {
		if s, err := g.p.console.readLine(stop); err == nil {
			g.say("echo: %s", s)
		} else if errors.Is(err, io.EOF) {
			g.say("echo: the console was hung up")
		}
	})
}

func (g *guest) reboot() {
	g.kernel("reboot: Restarting system")
	g.reset()
}

// reset is what the kernel does after its last words. By the keyboard
// controller it is the one end that Firecracker calls a success; a triple fault
// is an exit of a processor that it does not know.
func (g *guest) reset() {
	if kind, _ := g.line.value("reboot"); strings.Contains(","+kind+",", ",t,") || strings.Contains(","+kind+",", ",triple,") {
		g.p.log.say(levelError, inVMM, "Unexpected exit reason on vcpu run: Shutdown")
		g.p.log.say(levelInfo, inVMM, "Vmm is stopping.")
		g.p.end(outcome{code: ExitGeneric})
		return
	}
	g.p.log.say(levelInfo, inVMM, "Vmm is stopping.")
	g.p.end(outcome{code: ExitOK})
}

// halt leaves the machine where it is: there is nothing that could switch it
// off, and the program goes on.
func (g *guest) halt(lastWords string) {
	g.keyboard.abandon()
	g.kernel("reboot: %s", lastWords)
}

// panic is the kernel's: what comes then stands on its command line.
func (g *guest) panic(reason string) {
	g.keyboard.abandon()
	g.kernel("Kernel panic - not syncing: %s", reason)
	text, _ := g.line.value("panic")
	seconds, err := strconv.Atoi(text)
	switch {
	case err != nil || seconds == 0:
		g.kernel("---[ end Kernel panic - not syncing: %s ]---", reason)
		return
	case seconds > 0:
		g.kernel("Rebooting in %d seconds..", seconds)
		time.Sleep(time.Duration(seconds) * time.Second)
	}
	g.reset()
}
