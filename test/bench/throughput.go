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
// under ampoule run and with QEMU by hand, whose tap is made by ip(8).
func measureThroughput(s setup) ([]measurement, error) {
	return inNetwork(func() ([]measurement, error) {
		p, err := s.startPair(rivals{name: "throughput"})
		if err != nil {
			return nil, err
		}
		defer p.end()
		mine, theirs, err := inTurn(transferRounds, p.sent)
		if err != nil {
			return nil, err
		}
		number, err := version(p.recipe.argv[0])
		if err != nil {
			return nil, err
		}
		return rateTable("throughput of a tap, guest to host", mine, theirs, "QEMU "+number+" by hand on the same bridge"), nil
	})
}

// rateTable are the lines of two guests that did the same in turn. What has the bound
// is the ratio of a round, by the median: a machine that becomes busier meanwhile
// slows both of a round.
func rateTable(what string, mine, theirs []float64, peer string) []measurement {
	line := func(which string, q float64) measurement {
		return measurement{
			what: fmt.Sprintf("%s, %s of %d", what, which, len(mine)), ours: quantile(mine, q), peer: quantile(theirs, q), show: showRate, peerName: peer,
		}
	}
	rounds := make([]float64, len(mine))
	for i := range rounds {
		rounds[i] = mine[i] / theirs[i]
	}
	half := median(rounds)
	ratio := measurement{
		what: fmt.Sprintf("%s, ratio of a round, median of %d", what, len(rounds)), ours: half, peerName: peer,
		show: func(v float64) string { return fmt.Sprintf("%.3f", v) }, bound: ratioAtLeast(half, 1, throughputRatioLimit),
	}
	return []measurement{line("median", 0.5), line("most", 1), ratio}
}

// inNetwork measures in a network namespace of its own, and in a mount namespace, which
// the processes have too that are started meanwhile.
func inNetwork(measure func() ([]measurement, error)) (found []measurement, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The namespaces are the thread's, which ends with this goroutine.
		runtime.LockOSThread()
		if err = os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET|unix.CLONE_NEWNS)); err != nil {
			return
		}
		if err = os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
			return
		}
		found, err = measure()
	}()
	<-done
	return found, err
}

// rivals are two guests that are there at the same time and work in turn: ours, under
// ampoule run, and the peer's, whose QEMU is started by hand from the same recipe.
type rivals struct {
	name string
	// path is $PATH for ampoule run, where it is another than ours; lines are what
	// the VM has beside its tap.
	path  string
	lines []string
	// peer, if not nil, makes what the peer's QEMU finds on the host, by what ours
	// has, whose processes are children of pid, and changes the recipe accordingly.
	peer func(pid int, r *recipe) (end func(), err error)
}

// pair are rivals that run. Their guests wait for orders.
type pair struct {
	*hand
	recipe *recipe // of ours
	ends   []func()
}

// end stops both, what was started last first.
func (p *pair) end() {
	for _, f := range slices.Backward(p.ends) {
		f()
	}
}

func (s setup) startPair(r rivals) (_ *pair, err error) {
	p := &pair{}
	defer func() {
		if err != nil {
			p.end()
		}
	}()
	if err := ip("link set lo up", "link add br0 type bridge", "addr add "+hostAddress+"/24 dev br0", "link set br0 up",
		"tuntap add dev peer0 mode tap vnet_hdr", "link set peer0 master br0 up"); err != nil {
		return nil, err
	}
	if p.hand, err = newHand(); err != nil {
		return nil, err
	}
	p.ends = append(p.ends, p.close)
	script := filepath.Join(s.dir, "obey")
	if err := os.WriteFile(script, []byte(obey), 0o600); err != nil {
		return nil, err
	}
	v, err := s.writeVM(r.name, "ampoule.test=stay ampoule.address="+ourAddress,
		append(r.lines, "Network=bridge:br0,mac="+ourMAC, "LoadCredential="+guest.ScriptName+":"+script)...)
	if err != nil {
		return nil, err
	}
	ours := v.command(v.file)
	if r.path != "" {
		ours.Env = append(ours.Env, "PATH="+r.path) // the last of two counts
	}
	var words strings.Builder
	ours.Stderr = &words
	if err := ours.Start(); err != nil {
		return nil, err
	}
	p.ends = append(p.ends, func() {
		// In order, and it removes what it has made on the host.
		if quit(v.socket) != nil {
			_ = ours.Process.Kill()
		}
		_ = finish(ours)
	})
	if err := p.await(ourAddress); err != nil {
		return nil, fmt.Errorf("ampoule run: %w\n%s", err, words.String())
	}
	return p, s.startPeer(p, r, v, ours.Process.Pid)
}

// quit ends a hypervisor by its second monitor.
func quit(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), quitTimeout)
	defer cancel()
	monitor, err := dial(ctx, socket)
	if err != nil {
		return err
	}
	defer monitor.Close()
	return monitor.Execute(ctx, "quit", nil, nil)
}

// startPeer starts the peer of a VM that runs.
func (s setup) startPeer(p *pair, r rivals, v *vm, ours int) error {
	pid, err := childOf(ours, "qemu-system-")
	if err != nil {
		return err
	}
	if p.recipe, err = readRecipe(pid); err != nil {
		return err
	}
	theirs := p.recipe.peer(v.socket)
	if r.peer != nil {
		end, err := r.peer(ours, theirs)
		if err != nil {
			return err
		}
		p.ends = append(p.ends, end)
	}
	peer, err := theirs.run()
	if err != nil {
		return fmt.Errorf("QEMU by hand: %w", err)
	}
	p.ends = append(p.ends, peer.end)
	if err := p.await(peerAddress); err != nil {
		return fmt.Errorf("QEMU by hand: %w", err)
	}
	return nil
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

// carriesOut has a guest carry out a line of shell, and returns how long it took,
// with what it takes to ask for the next.
func (h *hand) carriesOut(who, what string) (time.Duration, error) {
	if err := h.order(who, what); err != nil {
		return 0, err
	}
	started := time.Now()
	err := h.await(who)
	return time.Since(started), err
}

// inTurn measures both guests. The first round of each does not count.
func inTurn(rounds int, rate func(who string) (float64, error)) (ours, peers []float64, err error) {
	both := []string{ourAddress, peerAddress}
	rates := map[string][]float64{}
	for n := range rounds + 1 {
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
