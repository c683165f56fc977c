package fake

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Main is the program. It returns the exit code, unless the guest, or a fault,
// ends the process before.
func Main(args []string, stdin *os.File, stdout, stderr *os.File) int {
	return run(args, stdin, stdout, stderr, Options{})
}

func run(args []string, stdin *os.File, stdout, stderr *os.File, test Options) int {
	syscall.Umask(0o077)
	o, err := parseOptions(args)
	var refused refusedOption
	switch {
	case len(args) == 0:
		fmt.Fprint(stderr, "Launch a cloud-hypervisor VMM.\n\nUsage: cloud-hypervisor [OPTIONS]\n")
		return 2
	case len(args) == 1 && oneOf(args[0], "-h", "--help"):
		fmt.Fprint(stdout, "Launch a cloud-hypervisor VMM.\n\nUsage: cloud-hypervisor [OPTIONS]\n")
		return 0
	case errors.As(err, &refused):
		fmt.Fprint(stderr, refused.Error())
		return 2
	case o.version:
		printVersion(stdout, o, test)
		return 0
	}
	v, chain := newVMM(o, stdin, stdout, stderr)
	if v == nil {
		fmt.Fprint(stderr, exitWith(chain))
		return 1
	}
	v.faults.add(test.Faults)
	v.version = cmp.Or(test.Version, buildVersion)
	return v.live()
}

func printVersion(stdout io.Writer, o options, test Options) {
	fmt.Fprintf(stdout, "cloud-hypervisor %s\nMigration Protocol Versions: 0\n", cmp.Or(test.Version, buildVersion))
	if o.verbose > 0 {
		fmt.Fprintf(stdout, "Enabled features: %s\n", debug([]any{features()[0], features()[1]}))
	}
}

// newVMM opens what the options name, in the order of the real one: socket
// descriptor, log, event monitor, socket.
func newVMM(o options, stdin, stdout, stderr *os.File) (*vmm, []string) {
	fd, path, chain := socketOption(o)
	if chain != nil {
		return nil, chain
	}
	now := time.Now()
	words := &logger{out: stderr, level: o.verbose, start: now}
	if o.logFile != nil {
		f, err := createFile(*o.logFile)
		if err != nil {
			return nil, []string{"Error creating log file", osError(err)}
		}
		words.out = f
	}
	words.info("cloud-hypervisor/src/main.rs:631", buildVersion+" starting")
	v := &vmm{
		log: words, events: &monitor{start: now, log: words}, stdin: stdin, stdout: stdout, stderr: stderr, actions: actions(), faults: &faults{}, noShutdown: !o.shutdown,
		calls: make(chan func()), signals: make(chan notice, 8), done: make(chan struct{}), typed: make(chan []byte, 16),
	}
	if chain := v.openMonitor(o); chain != nil {
		words.error("main", "cloud-hypervisor/src/lib.rs:24", "Fatal error: "+chain[0])
		return nil, chain
	}
	v.events.emit("vmm", "starting", nil)
	if chain := v.listen(fd, path); chain != nil {
		words.error("main", "cloud-hypervisor/src/lib.rs:24", "Fatal error: "+chain[0])
		return nil, chain
	}
	return v, nil
}

// socketOption reads --api-socket. What is no option is a path.
func socketOption(o options) (fd int, path string, chain []string) {
	if o.socket == nil {
		return -1, "", nil
	}
	given, _ := pairs(*o.socket, "path", "fd")
	if text := given["fd"]; text != "" {
		n, words := descriptor(text)
		if words != "" {
			return -1, "", []string{"Error parsing --api-socket", words}
		}
		return n, "", nil
	}
	if given["path"] != "" {
		return -1, given["path"], nil
	}
	return -1, *o.socket, nil
}

func (v *vmm) openMonitor(o options) []string {
	if o.monitor == nil {
		return nil
	}
	given, err := pairs(*o.monitor, "path", "fd")
	if err != nil {
		return []string{"Error parsing --event-monitor", err.Error()}
	}
	switch {
	case given["fd"] != "":
		n, words := descriptor(given["fd"])
		if words != "" {
			return []string{"Error parsing --event-monitor", "unable to convert " + given["fd"] + " for fd"}
		}
		if err := syscall.SetNonblock(n, true); err != nil {
			return []string{"Error doing event monitor I/O", osError(err)}
		}
		v.events.file = os.NewFile(uintptr(n), "event monitor")
	case given["path"] != "":
		f, err := createFile(given["path"])
		if err != nil {
			return []string{"Error doing event monitor I/O", osError(err)}
		}
		v.events.file = f
	default:
		return []string{"Error parsing --event-monitor: path or fd required"}
	}
	return nil
}

// listen serves the API on a descriptor, which has to be a listening socket, or
// on a path.
func (v *vmm) listen(fd int, path string) []string {
	var err error
	switch {
	case fd >= 0:
		f := os.NewFile(uintptr(fd), "api socket")
		v.listener, err = net.FileListener(f)
		f.Close()
		if err != nil { // found out by a thread, whose end is that of the process, as if by order
			fmt.Fprintf(v.stderr, "\nthread 'http-server' panicked at vmm/src/api/http/mod.rs:383:39:\n%s\n", osError(err))
			v.log.error("http-server", "vmm/src/api/http/mod.rs:406", "http-server thread panicked")
			v.listener, err = nil, nil
			v.signals <- notice{kind: exitAsked}
		}
	case path != "":
		_ = os.Remove(path)
		v.listener, err = net.Listen("unix", path)
		v.socket = path
	}
	if err != nil {
		return []string{"Failed to start the VMM thread", "Error creation API server's socket", osError(err)}
	}
	return nil
}

// live is everything from here to the end of the process.
func (v *vmm) live() int {
	stop := make(chan os.Signal, 2)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for range stop {
			select {
			case v.signals <- notice{kind: exitAsked}:
			case <-v.done:
			}
		}
	}()
	if v.listener != nil {
		go v.serve(v.listener)
	}
	v.loop()
	v.replies.Wait()
	if v.fatal == nil && v.socket != "" {
		_ = os.Remove(v.socket)
	}
	if v.fatal != nil {
		fmt.Fprint(v.stderr, exitWith(v.fatal))
	} else {
		v.log.info("cloud-hypervisor/src/main.rs:962", "Cloud Hypervisor exited successfully")
	}
	return v.code
}

// exit ends the process at once. With the race detector os.Exit would sleep for a
// second first, which is the longest part of most tests.
func exit(code int) { syscall.Exit(code) }

// dieBy ends the process by a signal. Go has handlers for most; a program that
// takes its place has not.
func dieBy(signal int) {
	err := syscall.Exec("/bin/sh", []string{"sh", "-c", fmt.Sprintf("ulimit -c 0; kill -%d $$; sleep 60", signal)}, []string{})
	misused("cannot die by a signal: " + err.Error())
}
