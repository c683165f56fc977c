package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/control/qmp"
)

// recipe is all it takes to start by hand the hypervisor that ampoule started:
// its words, and what it found on its descriptors.
type recipe struct {
	argv             []string
	control, console int            // descriptors that are sockets
	files            map[int][]byte // descriptors that are files
}

// What the command line says of descriptors.
var (
	controlWord = regexp.MustCompile(`^socket,id=control,fd=(\d+)$`)
	consoleWord = regexp.MustCompile(`^socket,id=console,fd=(\d+)$`)
	fileWord    = regexp.MustCompile(`/proc/self/fd/(\d+)`)
)

func readRecipe(pid int) (*recipe, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, fmt.Errorf("reading the command line: %w", err)
	}
	r := &recipe{files: map[int][]byte{}}
	for word := range bytes.SplitSeq(bytes.TrimSuffix(text, []byte{0}), []byte{0}) {
		r.argv = append(r.argv, string(word))
		switch {
		case controlWord.Match(word):
			r.control, _ = strconv.Atoi(string(controlWord.FindSubmatch(word)[1]))
		case consoleWord.Match(word):
			r.console, _ = strconv.Atoi(string(consoleWord.FindSubmatch(word)[1]))
		case fileWord.Match(word):
			fd, err := strconv.Atoi(string(fileWord.FindSubmatch(word)[1]))
			if err != nil {
				return nil, err
			}
			r.files[fd], err = os.ReadFile(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
			if err != nil {
				return nil, fmt.Errorf("reading a descriptor: %w", err)
			}
		}
	}
	if r.control == 0 || r.console == 0 || len(r.files) == 0 {
		return nil, fmt.Errorf("the command line %q lacks the control, console or credential descriptors", r.argv)
	}
	return r, nil
}

// launched is a hypervisor that was started by hand.
type launched struct {
	cmd              *exec.Cmd
	started          time.Time
	control, console net.Conn
	words            bytes.Buffer // of its standard error, once it has ended
}

// launch makes the descriptors and starts QEMU.
func (r *recipe) launch() (*launched, error) {
	l := &launched{started: time.Now()}
	inherited, control, console, err := r.descriptors()
	defer func() {
		for _, f := range inherited {
			f.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	l.control, l.console = control, console
	l.cmd = exec.Command(r.argv[0], r.argv[1:]...)
	l.cmd.Env, l.cmd.Dir, l.cmd.ExtraFiles = []string{}, "/", inherited
	l.cmd.SysProcAttr = ownSession()
	l.cmd.Stderr = &l.words
	if err := l.cmd.Start(); err != nil {
		control.Close()
		console.Close()
		return nil, err
	}
	return l, nil
}

// start is what the simplest harness does: start QEMU, shake hands, let the
// guest run.
func (r *recipe) start(socket string) (sample, error) {
	l, err := r.launch()
	if err != nil {
		return sample{}, err
	}
	defer l.console.Close()
	go func() {
		// What goes wrong here is seen as a guest that does not run.
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		client, err := qmp.New(ctx, l.control)
		if err == nil {
			_ = client.Execute(ctx, "cont", nil, nil)
			<-client.Done()
			client.Close()
		}
	}()
	got, err := observe(l.started, socket, l.console, func(got *sample) (err error) {
		got.hypervisor, err = peak(l.cmd.Process.Pid)
		return err
	})
	if err != nil {
		_ = l.cmd.Process.Kill()
		_ = l.cmd.Wait()
		return sample{}, fmt.Errorf("%w\n%s", err, l.words.String())
	}
	return got, finish(l.cmd)
}

// descriptors makes what the hypervisor inherits, from descriptor 3 on.
func (r *recipe) descriptors() (inherited []*os.File, control, console net.Conn, err error) {
	last := max(r.control, r.console)
	for fd := range r.files {
		last = max(last, fd)
	}
	for fd := 3; fd <= last && err == nil; fd++ {
		var f *os.File
		switch content, ok := r.files[fd]; {
		case fd == r.control:
			control, f, err = qmp.Pair()
		case fd == r.console:
			console, f, err = qmp.Pair()
		case ok:
			f, err = memoryFile(content)
		default:
			// Not on the command line, but a number must be taken.
			f, err = os.Open(os.DevNull)
		}
		if err == nil {
			inherited = append(inherited, f)
		}
	}
	return inherited, control, console, err
}

func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("bench", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "memfd:bench")
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
