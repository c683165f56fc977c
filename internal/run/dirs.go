package run

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Directories are where a VM keeps what it needs beside its plan. Both are
// absolute.
type Directories struct {
	// State holds relative disks; it is made when one is needed. Empty: there
	// is no place for them.
	State string
	// Runtime holds the lock and the record of the run, on a tmpfs. Empty:
	// there is no place for it, and neither is kept.
	Runtime string
	// Cache holds what was seen in files, and nothing that cannot be found
	// again. Empty: there is no place for it.
	Cache string
	// given: Runtime is a service manager's, who also removes it.
	given bool
}

// FindDirectories follows systemd's variables where a service manager set them,
// and its paths otherwise: those of the system for root, those of the user
// (XDG base directories, of which relative ones do not count) for anybody else.
func FindDirectories(name string, getenv func(string) string) Directories {
	below := filepath.Join("ampoule", "vm", name)
	in := func(base string) string {
		if !filepath.IsAbs(base) {
			return ""
		}
		return filepath.Join(base, below)
	}
	d := Directories{State: given(getenv, "STATE_DIRECTORY"), Runtime: given(getenv, "RUNTIME_DIRECTORY"), Cache: given(getenv, "CACHE_DIRECTORY")}
	d.given = d.Runtime != ""
	state, runtime := in("/var/lib"), in("/run")
	if os.Geteuid() != 0 {
		state, runtime = in(getenv("XDG_STATE_HOME")), in(getenv("XDG_RUNTIME_DIR"))
		if home := getenv("HOME"); state == "" && filepath.IsAbs(home) {
			state = in(filepath.Join(home, ".local", "state"))
		}
	}
	d.State, d.Runtime, d.Cache = cmp.Or(d.State, state), cmp.Or(d.Runtime, runtime), cmp.Or(d.Cache, cacheDirectory(getenv))
	return d
}

// cacheDirectory is for all VMs of a user: what was seen in a file is the same
// for each of them.
func cacheDirectory(getenv func(string) string) string {
	if os.Geteuid() == 0 {
		return "/var/cache/ampoule"
	}
	if dir := getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "ampoule")
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".cache", "ampoule")
	}
	return ""
}

// given is the first directory of a service manager's variable. One that
// somebody set by hand and relative is meant from here.
func given(getenv func(string) string, variable string) string {
	dir, _, _ := strings.Cut(getenv(variable), ":")
	if dir == "" {
		return ""
	}
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
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
	ours bool // the directory is ours to remove
	lock *os.File
}

// The files of the runtime directory.
const (
	lockName   = "lock"
	recordName = "run.json"
	newRecord  = ".run.json.new"
)

// claim takes the VM's lock. The lock ends with the process, whatever ends it;
// the file that a killed predecessor left locks nothing.
func claim(d Directories) (*recorder, error) {
	if d.Runtime == "" {
		return &recorder{}, nil
	}
	var err error
	for range claimTries {
		_, statErr := os.Stat(d.Runtime)
		if err = os.MkdirAll(d.Runtime, 0o700); err != nil {
			if errors.Is(err, os.ErrExist) {
				continue // it was there, and is removed now
			}
			break
		}
		var lock *os.File
		switch lock, err = takeLock(filepath.Join(d.Runtime, lockName)); {
		case errors.Is(err, errLockGone):
			continue
		case err != nil:
			return nil, err
		}
		return &recorder{dir: d.Runtime, ours: statErr != nil || !d.given, lock: lock}, nil
	}
	return nil, fmt.Errorf("making the runtime directory: %w", err)
}

// claimTries is how often the last owner of a VM can get in our way, who
// removes what we are about to use.
const claimTries = 1000

// errLockGone: the lock file was removed while we were about to take it.
var errLockGone = errors.New("the lock file is gone")

// takeLock opens and locks a file, and makes sure that it is still the one
// with that name: a lock on a file that its last owner has removed would keep
// nobody out.
func takeLock(path string) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errLockGone
	}
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	if err := lockFile(lock, path); err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// lockFile locks the file that was opened under that name.
func lockFile(lock *os.File, path string) error {
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return errRunning
	} else if err != nil {
		return fmt.Errorf("taking the lock %s: %w", path, err)
	}
	held, err := lock.Stat()
	if err != nil {
		return fmt.Errorf("looking at the lock: %w", err)
	}
	named, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(held, named) {
		return errLockGone
	}
	if err != nil {
		return fmt.Errorf("looking at the lock: %w", err)
	}
	return nil
}

// write replaces the record, whole or not at all.
func (r *recorder) write(rec Record) error {
	if r.dir == "" {
		return nil
	}
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	// The lock is ours, so one name will do, and what a killed predecessor
	// left there is overwritten.
	path := filepath.Join(r.dir, newRecord)
	tmp, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(data, '\n'))
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(path, filepath.Join(r.dir, recordName))
	}
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// release removes what claim and write made, the lock file last and while it is
// still locked, so that a successor never meets a half-removed record.
func (r *recorder) release() {
	if r.dir == "" {
		return
	}
	for _, name := range []string{newRecord, recordName, lockName} {
		_ = os.Remove(filepath.Join(r.dir, name))
	}
	if r.ours {
		_ = os.Remove(r.dir)
	}
	r.lock.Close()
}
