package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// Phase is where a VM is in its life, in the words that the service manager's
// status shows too.
type Phase string

// The phases.
const (
	Booting     Phase = "booting"
	Ready       Phase = "ready"
	Started     Phase = "started, guest not observed" // Readiness=started
	Rebooting   Phase = "rebooting"
	PoweringOff Phase = "powering off"
)

// Record is what ampoule run writes down about a start: the answers to the
// plan's questions. It holds sizes of credentials and never anything that a
// guess of their contents could be checked against.
type Record struct {
	Schema int    `json:"schema"`
	Name   string `json:"name"`
	// Pid is that of the process that runs the VM, as itself sees it.
	Pid int `json:"pid"`
	// Invocation is the service manager's InvocationID, where it started us.
	Invocation string `json:"invocation,omitempty"`
	// ByHand: no service manager can stop the VM.
	ByHand bool `json:"by_hand,omitempty"`
	// File is that from which the plan was made, if any.
	File       string `json:"file,omitempty"`
	PlanDigest string `json:"plan_digest"`
	UnitDigest string `json:"unit_digest"`
	// Merged is the digest of what the plan came to with an image that was read
	// at start; empty: the plan waited for none.
	Merged string `json:"merged_digest,omitempty"`
	Delivery
	Phase Phase `json:"phase,omitempty"`
	// Started and ReadyAt are in whole seconds, UTC; zero as long as it is not.
	Started time.Time `json:"started,omitzero"`
	ReadyAt time.Time `json:"ready_at,omitzero"`
	Ready   bool      `json:"ready"`
	// ExitStatus is what the guest wanted its end to be taken for.
	ExitStatus int `json:"exit_status,omitempty"`
	// Reboots counts the guest's own.
	Reboots int `json:"reboots"`
	// Console is the path of the console's socket as ampoule console finds it,
	// a name in the VM's runtime directory; empty where there is none.
	Console string `json:"console,omitempty"`
	// Orders is the path of the socket on which the run takes orders, a name in the
	// VM's runtime directory; empty where there is nothing to order.
	Orders string `json:"orders,omitempty"`
	// VSock is the path of a multiplexed vsock as ampoule ssh finds it, a name in
	// the VM's runtime directory, and VSockCID the guest's number on that of the
	// kernel; empty and 0 where there is none.
	VSock    string `json:"vsock,omitempty"`
	VSockCID uint32 `json:"vsock_cid,omitempty"`
	// SSHAgent is the path of the socket of the agent with a key that the guest
	// takes; empty where it was given none.
	SSHAgent string `json:"ssh_agent,omitempty"`
	// Files are those of the host from which the guest and its runner were
	// started, as they were then.
	Files []File `json:"files,omitempty"`
}

// Delivery is what was handed to the hypervisor.
type Delivery struct {
	Hypervisor    string              `json:"hypervisor,omitempty"`
	HypervisorPid int                 `json:"hypervisor_pid,omitempty"`
	Version       string              `json:"hypervisor_version,omitempty"`
	Accelerator   string              `json:"accelerator,omitempty"`
	Channel       string              `json:"channel,omitempty"`
	ChannelWhy    string              `json:"channel_why,omitempty"`
	Credentials   []DeliveredMetadata `json:"credentials"`
}

// DeliveredMetadata names a credential.
type DeliveredMetadata struct {
	Name   string `json:"name"`
	Bytes  int    `json:"bytes"`
	Source string `json:"source"`
}

// maxRecord is the most of a record that is read, in bytes: the largest of a
// VM with 300 credentials is below.
const maxRecord = 8 << 20

// Read returns the record in a VM's runtime directory. The error is
// os.ErrNotExist where there is none. What the VM's user wrote is not trusted:
// only a regular file of a sane size is read, and nothing in its text can move
// a terminal's cursor.
func Read(dir string) (Record, error) {
	data, err := ReadRegular(filepath.Join(dir, recordName), maxRecord)
	if err != nil {
		return Record{}, fmt.Errorf("reading the record of the run: %w", err)
	}
	return parse(data)
}

// ReadPlan returns the text of the plan in a VM's runtime directory, of at most
// so many bytes. The error is os.ErrNotExist where there is none. The VM's user
// may have written it: whoever parses it makes sure which plan it is.
func ReadPlan(dir string, most int) ([]byte, error) {
	data, err := ReadRegular(filepath.Join(dir, planName), most)
	if err != nil {
		return nil, fmt.Errorf("reading the plan of the run: %w", err)
	}
	return data, nil
}

// parse never repeats the input in its errors.
func parse(data []byte) (Record, error) {
	var rec Record
	if err := json.Unmarshal(data, &rec); err != nil {
		return Record{}, errors.New("reading the record of the run: it is not valid")
	}
	if rec.Pid < 0 || rec.HypervisorPid < 0 || rec.Reboots < 0 {
		return Record{}, errors.New("reading the record of the run: a number in it is negative")
	}
	rec.clean()
	return rec, nil
}

// clean makes every text printable.
func (r *Record) clean() {
	for _, s := range []*string{
		&r.Name, &r.Invocation, &r.File, &r.PlanDigest, &r.UnitDigest, &r.Merged, (*string)(&r.Phase), &r.Console, &r.Orders, &r.VSock, &r.SSHAgent,
		&r.Hypervisor, &r.Version, &r.Accelerator, &r.Channel, &r.ChannelWhy,
	} {
		*s = printable(*s)
	}
	for i := range r.Files {
		f := &r.Files[i]
		f.Role, f.Path = Role(printable(string(f.Role))), printable(f.Path)
	}
	for i := range r.Credentials {
		c := &r.Credentials[i]
		c.Name, c.Source, c.Bytes = printable(c.Name), printable(c.Source), max(0, c.Bytes)
	}
}

// printable replaces what is no character to be seen: controls, and those that
// turn the direction of the text.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// errNotRegular: something else than a file lies where one should.
var errNotRegular = errors.New("this is not a regular file")

// ReadRegular reads a file that somebody may have put there to harm whoever
// reads it: it follows no link at the end of the path, waits for nobody, and
// refuses what is larger than most bytes.
func ReadRegular(path string, most int) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > most {
		return nil, fmt.Errorf("it is larger than %d bytes", most)
	}
	return data, nil
}

// openRegular opens a file for reading without following a link at its end, and
// without waiting for the other side of a FIFO.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
