package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
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
	started(Record)
	ready(Record)
	ended(Outcome)
	// stops delivers the wish to power off, with the reason.
	stops() <-chan string
}

// local reports for a run without a Runner=.
type local struct{ *runner }

func (l local) started(rec Record) { l.writeRecord(rec) }

func (l local) ready(rec Record) {
	l.writeRecord(rec)
	status := "started, guest not observed"
	if l.Plan.VM.Readiness.Mode == "console" {
		status = "ready"
	}
	notify("READY=1\nSTATUS=" + status)
	l.tell("%s: %s", l.Plan.VM.Name, status)
}

func (l local) ended(Outcome) {}

func (l local) stops() <-chan string { return nil }

// writeRecord replaces the record. A record that cannot be written is no
// reason to end a guest.
func (r *runner) writeRecord(rec Record) {
	if r.claim == nil {
		return
	}
	if err := r.claim.write(rec); err != nil {
		r.warn("the record of the run cannot be written: %v", err)
	}
}

// message is what travels between ampoule boot and ampoule run, one packet of
// JSON each.
type message struct {
	Hello   bool     `json:"hello,omitempty"`
	Started *Record  `json:"started,omitempty"`
	Ready   *Record  `json:"ready,omitempty"`
	Ended   *Outcome `json:"ended,omitempty"`
	// Stop travels the other way.
	Stop string `json:"stop,omitempty"`
}

// maxMessage holds a record of as many credentials as a VM can have.
const maxMessage = 1 << 20

// remote reports to the ampoule run above.
type remote struct {
	conn  *net.UnixConn
	stopc chan string
}

// connect takes over the inherited socket.
func connect(fd string) (reporter, error) {
	n, err := strconv.Atoi(fd)
	if err != nil || n < 3 {
		return nil, fmt.Errorf("$%s is not the number of a descriptor", ControlVariable)
	}
	conn, err := unixConn(os.NewFile(uintptr(n), "control"))
	if err != nil {
		return nil, fmt.Errorf("the descriptor in $%s is not open: the runner has to hand it on (%w)", ControlVariable, err)
	}
	r := &remote{conn: conn, stopc: make(chan string, 4)}
	r.send(message{Hello: true})
	go r.read()
	return r, nil
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
		n, err := r.conn.Read(buf)
		if err != nil || n == 0 {
			// ampoule run is gone, and with it whoever would stop us.
			r.stopc <- orphaned
			return
		}
		var m message
		if json.Unmarshal(buf[:n], &m) == nil && m.Stop != "" {
			select {
			case r.stopc <- m.Stop:
			default:
			}
		}
	}
}

// orphaned is the reason of a stop that cannot wait for the guest.
const orphaned = "ampoule run is gone"

func (r *remote) send(m message) {
	data, err := json.Marshal(m)
	if err == nil {
		_ = r.conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, err = r.conn.Write(data)
	}
	// Without a reader the read side notices.
	_ = err
}

func (r *remote) started(rec Record)   { r.send(message{Started: &rec}) }
func (r *remote) ready(rec Record)     { r.send(message{Ready: &rec}) }
func (r *remote) ended(out Outcome)    { r.send(message{Ended: &out}) }
func (r *remote) stops() <-chan string { return r.stopc }
