package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/notify"
	"github.com/ampoule-vm/ampoule/internal/vsock"
)

const (
	// bootMessages is how many a guest's service manager sends while it boots.
	bootMessages = 300
	// heldLimit, in milliseconds, is how long one may be held up.
	heldLimit = 1
	// notifyPort is the one that microvm.nix uses.
	notifyPort = 8888
	// senderPatience is when a sender of ours gives up: a service manager never does.
	senderPatience = 20 * time.Second
)

// bridges are what people put between a hypervisor and the service manager, and
// how many messages they are given: a boot would take them ten minutes.
var bridges = []struct {
	timeout  string
	messages int
}{{"0.2", 10}, {"2", 3}}

// measureNotify plays the messages of a boot, and measures how long each holds up
// the guest's service manager: from its last byte until it is let go. Once as
// under a hypervisor that hands on the half-close (cloud-hypervisor from 53 on),
// once as under one that does not (firecracker). All hand the text on to a
// service manager's socket.
func measureNotify(s setup) ([]measurement, error) {
	number, err := socatVersion()
	if err != nil {
		return nil, err
	}
	var all []measurement
	for _, halfClose := range []bool{false, true} {
		what := "notify without half-close: held up, "
		if halfClose {
			what = "notify with half-close: held up, "
		}
		ours, err := s.heldByRelay(halfClose)
		if err != nil {
			return nil, fmt.Errorf("our relay: %w", err)
		}
		for i, b := range bridges {
			theirs, err := s.heldBySocat(b.timeout, b.messages, halfClose)
			if err != nil {
				return nil, fmt.Errorf("socat -T%s: %w", b.timeout, err)
			}
			m := measurement{what: what + "median", ours: median(ours), peer: median(theirs), show: showHeld,
				peerName: fmt.Sprintf("socat %s -T%s, median of %d", number, b.timeout, b.messages)}
			if i == 0 {
				m.bound = atMost(m.ours, heldLimit, showHeld)
			}
			all = append(all, m)
		}
		all = append(all,
			measurement{what: what + "99 of 100", ours: quantile(ours, 0.99), show: showHeld},
			measurement{what: what + "longest", ours: slices.Max(ours), show: showHeld})
	}
	return all, nil
}

func showHeld(v float64) string { return fmt.Sprintf("%.3f ms", v) }

// heldByRelay measures ours, and that the last word arrived.
func (s setup) heldByRelay(halfClose bool) ([]float64, error) {
	manager, err := newManager(filepath.Join(s.dir, "notify"))
	if err != nil {
		return nil, err
	}
	defer manager.Close()
	socket := filepath.Join(s.dir, "vsock")
	l, err := vsock.ListenMux(socket, notifyPort)
	if err != nil {
		return nil, err
	}
	relay := notify.Serve(l)
	defer func() { _ = relay.Close() }()
	stop := make(chan struct{})
	defer close(stop)
	go handOn(relay, manager.LocalAddr(), stop)
	held, err := playBoot(vsock.MuxPath(socket, notifyPort), bootMessages, halfClose)
	if err != nil {
		return nil, err
	}
	return held, manager.awaitReady()
}

// handOn tells the service manager what a relay hears.
func handOn(relay *notify.Relay, manager net.Addr, stop <-chan struct{}) {
	out, err := net.Dial("unixgram", manager.String())
	if err != nil {
		return // awaitReady says so
	}
	defer out.Close()
	for {
		select {
		case <-relay.Changed():
		case <-stop:
			return
		}
		m := relay.Take()
		var text strings.Builder
		if m.Ready {
			text.WriteString("READY=1\n")
		}
		if m.Status != nil {
			text.WriteString("STATUS=" + *m.Status)
		}
		_, _ = out.Write([]byte(text.String()))
	}
}

// heldBySocat measures a bridge as people have it.
func (s setup) heldBySocat(timeout string, messages int, halfClose bool) ([]float64, error) {
	manager, err := newManager(filepath.Join(s.dir, "notify"))
	if err != nil {
		return nil, err
	}
	defer manager.Close()
	path := filepath.Join(s.dir, "socat")
	cmd := exec.Command("socat", "-T"+timeout, "UNIX-LISTEN:"+path+",fork", "UNIX-SENDTO:"+manager.LocalAddr().String())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		os.Remove(path)
	}()
	held, err := playBoot(path, messages, halfClose)
	if err != nil {
		return nil, err
	}
	return held, manager.awaitReady()
}

// socatVersion is told by an option of its own.
func socatVersion() (string, error) {
	out, err := exec.Command("socat", "-V").Output()
	if err != nil {
		return "", fmt.Errorf("asking socat for its version: %w", err)
	}
	found := regexp.MustCompile(`socat version (\S+)`).FindSubmatch(out)
	if found == nil {
		return "", errors.New("socat -V names no version")
	}
	return string(found[1]), nil
}

// manager is the receiving end of a service manager.
type manager struct{ *net.UnixConn }

func newManager(path string) (manager, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return manager{}, err
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	return manager{c}, err
}

// awaitReady reads until the guest is said to be ready.
func (m manager) awaitReady() error {
	if err := m.SetReadDeadline(time.Now().Add(senderPatience)); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := m.Read(buf)
		if err != nil {
			return fmt.Errorf("waiting for the readiness to arrive: %w", err)
		}
		if strings.Contains(string(buf[:n]), "READY=1") {
			return nil
		}
	}
}

// playBoot sends the messages of a boot, the last of which is its end, and
// returns the milliseconds that each was held up.
func playBoot(path string, messages int, halfClose bool) ([]float64, error) {
	// A service manager is one thread that does nothing meanwhile.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var held []float64
	for i := range messages {
		text := fmt.Sprintf("STATUS=(%d of %d) A start job is running for unit %d (%ds / no limit)", i%9, 9, i, i/3)
		if i == messages-1 {
			text = "READY=1\nSTATUS=Ready."
		}
		took, err := sendLikeSystemd(path, text, halfClose)
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
		held = append(held, milliseconds(took))
	}
	return held, nil
}

// sendLikeSystemd makes the system calls of sd_notify for a stream of AF_VSOCK, as
// systemd 256 and newer has them: a connection for each message, one sendmsg,
// shutdown, and a recv until the other side closes. The last two are measured. Where a
// hypervisor does not hand on the half-close, the host sees no shutdown.
func sendLikeSystemd(path, text string, halfClose bool) (time.Duration, error) {
	fd, err := connectStream(path)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	patience := unix.NsecToTimeval(senderPatience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return 0, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Sendmsg(fd, []byte(text), nil, nil, unix.MSG_NOSIGNAL); err != nil {
		return 0, os.NewSyscallError("sendmsg", err)
	}
	began := time.Now()
	if halfClose {
		if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil && !errors.Is(err, unix.ENOTCONN) {
			return 0, os.NewSyscallError("shutdown", err)
		}
	}
	var n int
	for {
		n, _, err = unix.Recvfrom(fd, make([]byte, 1), 0)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	took := time.Since(began)
	if err == nil && n != 0 {
		err = errors.New("the host has written something")
	}
	return took, os.NewSyscallError("recv", err)
}

// connectStream waits for a listener that is just starting.
func connectStream(path string) (int, error) {
	end := time.Now().Add(senderPatience)
	for {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, os.NewSyscallError("socket", err)
		}
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err == nil {
			return fd, nil
		}
		unix.Close(fd)
		starting := errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
		if !starting || time.Now().After(end) {
			return -1, os.NewSyscallError("connect", err)
		}
		time.Sleep(time.Millisecond)
	}
}
