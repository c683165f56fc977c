package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ampoule-vm/ampoule/internal/state"
)

// ControlVariable names the inherited socket on which ampoule boot, started by
// a Runner=, reports to the ampoule run above it.
const ControlVariable = "AMPOULE_CONTROL"

// PlanVariable names the file, a descriptor's path, that holds the plan for a
// Runner=.
const PlanVariable = "AMPOULE_PLAN"

// reporter is whom a boot tells how it goes: the service manager and the
// record, or the ampoule run above.
type reporter interface {
	progress
	wishes
}

// progress is what there is to tell.
type progress interface {
	// started: the guest runs, for the first time or again.
	started(state.Record)
	// phase: the guest has come to another phase; to say so again does nothing.
	phase(state.Phase)
	// says is what the guest's service manager says of its start, one line.
	says(status string)
	ended(Outcome)
}

// wishes are what whoever is told wants.
type wishes interface {
	// stops delivers the wish to power off, with the reason.
	stops() <-chan string
	// calls asks for a sign of life of the hypervisor, at most every interval,
	// until stop; nil where nobody wants one.
	calls() (calls <-chan time.Time, interval time.Duration, stop func())
	// alive is that sign.
	alive()
}

// local reports for a run without a Runner=.
type local struct{ *runner }

func (l local) started(rec state.Record) { l.writeRecord(rec) }

// phase tells the service manager first: a stop must not be killed because of a
// record. A VM that powers off never comes to another phase.
func (l local) phase(p state.Phase) {
	rec := &l.record
	if rec.Phase == p || rec.Phase == state.PoweringOff {
		return
	}
	rec.Phase = p
	switch first := !rec.Ready && (p == state.Ready || p == state.Started); {
	case first:
		rec.Ready, rec.ReadyAt = true, wholeSecond()
		tellManager("READY=1\nSTATUS=" + string(p))
		l.tell("%s: %s", l.Plan.VM.Name, p)
	case p == state.PoweringOff:
		notifyStopping(l.Plan.VM.StopTimeout)
	default:
		tellManager("STATUS=" + string(p))
	}
	l.writeRecord(*rec)
}

// says shows it as long as there is no other news of the guest.
func (l local) says(status string) {
	if p := l.record.Phase; p == state.Booting || p == state.Rebooting {
		tellManager("STATUS=" + string(p) + ": " + status)
	}
}

// wholeSecond is now, as precise as a record is.
func wholeSecond() time.Time { return time.Now().UTC().Truncate(time.Second) }

func (l local) ended(Outcome) {}

func (l local) stops() <-chan string { return nil }

func (l local) calls() (<-chan time.Time, time.Duration, func()) {
	if l.watchdog == 0 {
		return nil, 0, func() {}
	}
	t := time.NewTicker(l.watchdog)
	return t.C, l.watchdog, t.Stop
}

func (l local) alive() { tellManager("WATCHDOG=1") }

// writeRecord replaces the record. A record that cannot be written is no
// reason to end a guest.
func (r *runner) writeRecord(rec state.Record) {
	if r.claim == nil {
		return
	}
	if err := r.claim.Write(rec); err != nil {
		r.warn("the record of the run cannot be written: %v", err)
	}
}

// keepPlan lets others see what runs. Without it they see less, and that is no
// reason to start nothing.
func (r *runner) keepPlan() {
	if r.claim == nil {
		return
	}
	if err := r.claim.WritePlan(r.Plan.JSON()); err != nil {
		r.warn("the plan of the run cannot be kept: %v", err)
	}
}

// message is what travels between ampoule boot and ampoule run, one packet of
// JSON each.
type message struct {
	Hello bool `json:"hello,omitempty"`
	// Credentials are some of those of the record that follows: all of them
	// can be more than a packet holds.
	Credentials []state.DeliveredMetadata `json:"credentials,omitempty"`
	// Started is the record without them.
	Started *state.Record `json:"started,omitempty"`
	Phase   state.Phase   `json:"phase,omitempty"`
	Says    string        `json:"says,omitempty"`
	// Alive answers Call.
	Alive bool `json:"alive,omitempty"`
	// Ended is the outcome. Its problems are not in it: boot has said them.
	Ended *ending `json:"ended,omitempty"`
	// Stop and Call travel the other way: power off; and give a sign of life.
	Stop string `json:"stop,omitempty"`
	Call bool   `json:"call,omitempty"`
	// Files answers Hello: the names of the open files that travel with it.
	Files []string `json:"files,omitzero"`
}

// ending is an outcome on its way.
type ending struct {
	Code int    `json:"code"`
	Text string `json:"text"`
}

const (
	// maxMessage is the largest packet; the kernel's limit for an unprivileged
	// socket is about 200 KiB (net.core.wmem_default).
	maxMessage = 128 << 10
	// maxCredentials is how many fit one, of any size: a name of 255 bytes and
	// a source with a path of 4096, either in JSON up to six times as long.
	maxCredentials = 4
	// maxText keeps an outcome well within one.
	maxText = 16 << 10
)

// remote reports to the ampoule run above.
type remote struct {
	conn  *net.UnixConn
	stopc chan string
	over  chan struct{} // nobody takes stops any more
	// callc hands calls on to the guest. As long as there is none that answers
	// them, nothing is there that could hang unnoticed, and we do.
	callc chan time.Time
	// filesc delivers what root has opened for the VM.
	filesc   chan []*os.File
	answered atomic.Bool
}

// connect takes over the inherited socket.
func connect(fd string) (*remote, error) {
	n, err := strconv.Atoi(fd)
	if err != nil || n < 3 {
		return nil, fmt.Errorf("$%s is not the number of a descriptor", ControlVariable)
	}
	conn, err := unixConn(os.NewFile(uintptr(n), "control"))
	if err != nil {
		return nil, fmt.Errorf("the descriptor in $%s is not open: the runner has to hand it on (%w)", ControlVariable, err)
	}
	r := &remote{conn: conn, stopc: make(chan string), over: make(chan struct{}), callc: make(chan time.Time, 1), filesc: make(chan []*os.File, 1)}
	send(conn, message{Hello: true})
	go r.read()
	return r, nil
}

// took gives the files the names that came with them.
func (r *remote) took(names []string, fds []int) {
	named := []*os.File{}
	for i, fd := range fds {
		if i < len(names) {
			named = append(named, os.NewFile(uintptr(fd), names[i]))
		}
	}
	select {
	case r.filesc <- named:
	default: // they were there already
	}
}

func (r *remote) close() {
	close(r.over)
	r.conn.Close()
}

// unixConn turns a descriptor into a connection and closes the descriptor.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("not a unix socket")
	}
	return uc, nil
}

func (r *remote) read() {
	buf := make([]byte, maxMessage)
	for {
		n, fds, err := receiveFiles(r.conn, buf)
		var m message
		switch {
		case err != nil || n == 0:
			// ampoule run is gone, and with it whoever would stop us.
			m.Stop = orphaned
		case json.Unmarshal(buf[:n], &m) != nil:
			continue
		case m.Call:
			r.called()
			continue
		case m.Files != nil:
			r.took(m.Files, fds)
			continue
		case m.Stop == "":
			continue
		}
		select {
		case r.stopc <- m.Stop:
		case <-r.over:
			return
		}
		if m.Stop == orphaned {
			return
		}
	}
}

// orphaned is the reason of a stop that cannot wait for the guest.
const orphaned = "ampoule run is gone"

// send sends one packet. A peer that does not take it, or is gone, is noticed
// by whoever reads.
func send(conn *net.UnixConn, m message) {
	data, err := json.Marshal(m)
	if err != nil {
		return // numbers and strings always encode
	}
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write(data)
}

// receive reads one packet; none and no error is the end. A peer that closes
// with something unread is reported as a reset before its last packets, which
// are there all the same.
func receive(conn *net.UnixConn, buf []byte) (int, error) {
	n, err := conn.Read(buf)
	if errors.Is(err, syscall.ECONNRESET) {
		return conn.Read(buf)
	}
	return n, err
}

func (r *remote) started(rec state.Record) {
	for some := range slices.Chunk(rec.Credentials, maxCredentials) {
		send(r.conn, message{Credentials: some})
	}
	rec.Credentials = nil
	send(r.conn, message{Started: &rec})
}

func (r *remote) phase(p state.Phase) { send(r.conn, message{Phase: p}) }

func (r *remote) says(status string) { send(r.conn, message{Says: status}) }

func (r *remote) ended(out Outcome) {
	send(r.conn, message{Ended: &ending{out.Code, out.Text[:min(len(out.Text), maxText)]}})
}

func (r *remote) stops() <-chan string { return r.stopc }

func (r *remote) called() {
	if !r.answered.Load() {
		r.alive()
		return
	}
	select {
	case r.callc <- time.Now():
	default: // one is waiting already
	}
}

// calls come as often as the run above wants them; how long an answer may take
// is for it to judge.
func (r *remote) calls() (<-chan time.Time, time.Duration, func()) {
	r.answered.Store(true)
	return r.callc, commandTimeout, func() { r.answered.Store(false) }
}

func (r *remote) alive() { send(r.conn, message{Alive: true}) }
