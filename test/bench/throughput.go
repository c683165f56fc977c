package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/control/qmp"
	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
)

const (
	// transferMiB is what a guest sends to its host in one round, a second or two
	// of emulation.
	transferMiB = 128
	// transferRounds of each guest, in turn.
	transferRounds = 15
	// stepTimeout bounds a boot, and what a guest is told to do.
	stepTimeout = 3 * time.Minute
)

// Both guests are on one bridge, and tell each other apart by what they find on
// their kernel's command line.
const (
	hostAddress = "10.7.0.1"
	ourAddress  = "10.7.0.11"
	peerAddress = "10.7.0.12"
	ourMAC      = "52:54:00:07:00:11"
	peerMAC     = "52:54:00:07:00:12"
	orderPort   = ":7100"
	sinkPort    = ":7101"
	// obey asks the host what to do, again and again.
	obey = "for word in $(cat /proc/cmdline); do case $word in ampoule.address=*) agent address any ${word#*=}/24;; esac; done\n" +
		"while agent ask " + hostAddress + orderPort + " >/run/next && [ -s /run/next ]; do sh /run/next; done\n"
)

// measureThroughput compares what a guest sends to its host over a tap on a bridge,
// under ampoule run and with QEMU by hand, whose tap is made by ip(8). Both guests
// are there at the same time and work in turn.
func measureThroughput(s setup) ([]measurement, error) {
	type result struct {
		found []measurement
		err   error
	}
	done := make(chan result)
	go func() {
		// The thread has a network namespace of its own, as have the processes that
		// it starts and the sockets that it opens. It ends with this goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: os.NewSyscallError("unshare", err)}
			return
		}
		found, err := s.throughput()
		done <- result{found, err}
	}()
	r := <-done
	return r.found, r.err
}

func (s setup) throughput() ([]measurement, error) {
	if err := ip("link set lo up", "link add br0 type bridge", "addr add "+hostAddress+"/24 dev br0", "link set br0 up",
		"tuntap add dev peer0 mode tap vnet_hdr", "link set peer0 master br0 up"); err != nil {
		return nil, err
	}
	h, err := newHand()
	if err != nil {
		return nil, err
	}
	defer h.close()
	script := filepath.Join(s.dir, "obey")
	if err := os.WriteFile(script, []byte(obey), 0o600); err != nil {
		return nil, err
	}
	v, err := s.writeVM("throughput", "ampoule.test=stay ampoule.address="+ourAddress,
		"Network=bridge:br0,mac="+ourMAC, "LoadCredential="+guest.ScriptName+":"+script)
	if err != nil {
		return nil, err
	}
	ours := v.command(v.file)
	var words strings.Builder
	ours.Stderr = &words
	if err := ours.Start(); err != nil {
		return nil, err
	}
	defer func() {
		_ = ours.Process.Kill()
		_ = finish(ours)
	}()
	if err := h.await(ourAddress); err != nil {
		return nil, fmt.Errorf("ampoule run: %w\n%s", err, words.String())
	}
	pid, err := onlyChild(ours.Process.Pid)
	if err != nil {
		return nil, err
	}
	r, err := readRecipe(pid)
	if err != nil {
		return nil, err
	}
	peer, err := r.peer(v.socket).run()
	if err != nil {
		return nil, fmt.Errorf("QEMU by hand: %w", err)
	}
	defer peer.end()
	if err := h.await(peerAddress); err != nil {
		return nil, fmt.Errorf("QEMU by hand: %w", err)
	}
	mine, theirs, err := h.inTurn(func(who string) (float64, error) { return h.sent(who) })
	if err != nil {
		return nil, err
	}
	number, err := version(r.argv[0])
	if err != nil {
		return nil, err
	}
	line := func(what string, q float64) measurement {
		ours, bare := quantile(mine, q), quantile(theirs, q)
		return measurement{
			what: fmt.Sprintf("throughput of a tap, guest to host, %s of %d", what, transferRounds), ours: ours, peer: bare, show: showRate,
			peerName: "QEMU " + number + " by hand on the same bridge",
		}
	}
	half := line("median", 0.5)
	half.bound = ratioAtLeast(half.ours, half.peer, throughputRatioLimit)
	return []measurement{half, line("most", 1)}, nil
}

// ip makes changes to network interfaces.
func ip(changes ...string) error {
	for _, change := range changes {
		if out, err := exec.Command("ip", strings.Fields(change)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w\n%s", change, err, out)
		}
	}
	return nil
}

// hand tells guests what to do, and has what they send.
type hand struct {
	orders, sink net.Listener
	waiting      map[string]chan net.Conn // by the guest's address
}

func newHand() (*hand, error) {
	h := &hand{waiting: map[string]chan net.Conn{ourAddress: make(chan net.Conn, 1), peerAddress: make(chan net.Conn, 1)}}
	var err error
	if h.orders, err = net.Listen("tcp", hostAddress+orderPort); err != nil {
		return nil, err
	}
	if h.sink, err = net.Listen("tcp", hostAddress+sinkPort); err != nil {
		_ = h.orders.Close()
		return nil, err
	}
	go func() {
		for {
			conn, err := h.orders.Accept()
			if err != nil {
				return
			}
			from, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			if h.waiting[from] != nil {
				h.waiting[from] <- conn
			}
		}
	}()
	return h, nil
}

func (h *hand) close() {
	_ = h.orders.Close()
	_ = h.sink.Close()
}

// await waits until a guest asks what to do.
func (h *hand) await(who string) error {
	select {
	case conn := <-h.waiting[who]:
		h.waiting[who] <- conn
		return nil
	case <-time.After(stepTimeout):
		return fmt.Errorf("the guest at %s does not ask for orders", who)
	}
}

// order tells a guest that waits what to do.
func (h *hand) order(who, what string) error {
	if err := h.await(who); err != nil {
		return err
	}
	conn := <-h.waiting[who]
	defer conn.Close()
	_, err := io.WriteString(conn, what+"\n")
	return err
}

// sent has a guest send, and returns the rate in MB/s from the first byte to the
// last.
func (h *hand) sent(who string) (float64, error) {
	if err := h.order(who, fmt.Sprintf("agent send %s%s %d", hostAddress, sinkPort, transferMiB)); err != nil {
		return 0, err
	}
	if err := h.sink.(*net.TCPListener).SetDeadline(time.Now().Add(stepTimeout)); err != nil {
		return 0, err
	}
	conn, err := h.sink.Accept()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	buf := make([]byte, 1<<20)
	first, err := conn.Read(buf)
	if err != nil {
		return 0, err
	}
	started := time.Now()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, buf)
	if err != nil {
		return 0, err
	}
	if n+int64(first) != transferMiB<<20 {
		return 0, fmt.Errorf("the guest at %s sent %d bytes", who, n+int64(first))
	}
	return float64(n) / 1e6 / time.Since(started).Seconds(), nil
}

// inTurn measures both guests. The first round of each does not count.
func (h *hand) inTurn(rate func(who string) (float64, error)) (ours, peers []float64, err error) {
	both := []string{ourAddress, peerAddress}
	rates := map[string][]float64{}
	for n := range transferRounds + 1 {
		for _, who := range both {
			r, err := rate(who)
			if err != nil {
				return nil, nil, err
			}
			if n > 0 {
				rates[who] = append(rates[who], r)
			}
		}
		// Who comes second must not be always the same.
		slices.Reverse(both)
	}
	return rates[ourAddress], rates[peerAddress], nil
}

var tapFiles = regexp.MustCompile(`fds?=[0-9:]+`)

// peer is the recipe of the same VM with an address, a tap and a second monitor of
// its own.
func (r *recipe) peer(socket string) *recipe {
	p := *r
	p.argv = nil
	for _, word := range r.argv {
		if strings.HasPrefix(word, "tap,") {
			word = tapFiles.ReplaceAllString(word, "ifname=peer0,script=no,downscript=no")
		}
		p.argv = append(p.argv, strings.NewReplacer(ourAddress, peerAddress, ourMAC, peerMAC, socket, socket+"-peer").Replace(word))
	}
	return &p
}

// running is a hypervisor by hand whose guest runs.
type running struct {
	*launched
	client *qmp.Client
}

// run starts it and lets its guest run.
func (r *recipe) run() (*running, error) {
	l, err := r.launch()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	go func() { _, _ = io.Copy(io.Discard, l.console) }()
	client, err := qmp.New(ctx, l.control)
	if err == nil {
		err = client.Execute(ctx, "cont", nil, nil)
	}
	if err != nil {
		_ = l.cmd.Process.Kill()
		return nil, errors.Join(err, l.cmd.Wait(), errors.New(l.words.String()))
	}
	return &running{l, client}, nil
}

func (r *running) end() {
	_ = r.cmd.Process.Kill()
	_ = finish(r.cmd)
	r.client.Close()
	r.console.Close()
}
