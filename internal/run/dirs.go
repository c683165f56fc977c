package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Directories are where a VM keeps what it needs beside its plan.
type Directories struct {
	// State holds relative disks; it is made when one is needed.
	State string
	// Runtime holds the lock and the record of the run, on a tmpfs. Empty:
	// there is no place for it, and neither is kept.
	Runtime string
}

// FindDirectories follows systemd's variables where a service manager set them,
// and its paths otherwise: those of the system for root, those of the user
// (XDG base directories) for anybody else.
func FindDirectories(name string, getenv func(string) string) Directories {
	first := func(variable string) string {
		dir, _, _ := strings.Cut(getenv(variable), ":")
		return dir
	}
	d := Directories{State: first("STATE_DIRECTORY"), Runtime: first("RUNTIME_DIRECTORY")}
	below := filepath.Join("ampoule", "vm", name)
	state, runtime := "/var/lib", "/run"
	if os.Geteuid() != 0 {
		state, runtime = getenv("XDG_STATE_HOME"), getenv("XDG_RUNTIME_DIR")
		if state == "" {
			state = filepath.Join(getenv("HOME"), ".local", "state")
		}
	}
	if d.State == "" {
		d.State = filepath.Join(state, below)
	}
	if d.Runtime == "" && runtime != "" {
		d.Runtime = filepath.Join(runtime, below)
	}
	return d
}

// Record is what ampoule run writes down about a start: the answers to the
// plan's questions. It holds sizes of credentials and never anything that a
// guess of their contents could be checked against.
type Record struct {
	Schema     int    `json:"schema"`
	Name       string `json:"name"`
	Pid        int    `json:"pid"`
	Invocation string `json:"invocation,omitempty"`
	PlanDigest string `json:"plan_digest"`
	UnitDigest string `json:"unit_digest"`
	Delivery
	Ready bool `json:"ready"`
	// Reboots counts the guest's own.
	Reboots int `json:"reboots"`
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

// errRunning means that another process runs the VM.
var errRunning = errors.New("the VM is running already")

// recorder holds the lock of a running VM and writes its record.
type recorder struct {
	dir  string
	made bool // the directory is ours to remove
	lock *os.File
}

// claim takes the VM's lock. The lock ends with the process, whatever ends it.
func claim(dir string) (*recorder, error) {
	if dir == "" {
		return &recorder{}, nil
	}
	_, statErr := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the runtime directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errRunning
		}
		return nil, fmt.Errorf("taking the lock %s: %w", lock.Name(), err)
	}
	return &recorder{dir: dir, made: statErr != nil, lock: lock}, nil
}

// write replaces the record.
func (r *recorder) write(rec Record) error {
	if r.dir == "" {
		return nil
	}
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(r.dir, "run.json"), append(data, '\n'))
}

// release removes what claim and write made.
func (r *recorder) release() {
	if r.dir == "" {
		return
	}
	_ = os.Remove(filepath.Join(r.dir, "run.json"))
	_ = os.Remove(filepath.Join(r.dir, "lock"))
	if r.made {
		_ = os.Remove(r.dir)
	}
	r.lock.Close()
}

// writeFile replaces a file whole or not at all.
func writeFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
