package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrRunning means that another process runs the VM.
var ErrRunning = errors.New("the VM is running already")

// Claim is the lock of a running VM, with the right to write its record.
type Claim struct {
	dir  string
	ours bool // the directory is ours to remove
	lock *os.File
}

// The files of the runtime directory.
const (
	lockName   = "lock"
	recordName = "run.json"
	newRecord  = ".run.json.new"
	planName   = "plan.json"
	newPlan    = ".plan.json.new"
	// ConsoleName is the socket of the console.
	ConsoleName = "console"
	// OrdersName is the socket on which a run takes orders.
	OrdersName = "orders"
	// AgentName is the socket of the agent with the key of ampoule ssh.
	AgentName = "ssh-agent"
	// APIName and VSockName are sockets that a hypervisor makes, and NotifyName
	// that at which the second connects a guest's service manager with us.
	APIName    = "api"
	VSockName  = "vsock"
	NotifyName = VSockName + "_9999"
)

// Take takes the VM's lock, or returns ErrRunning. The lock ends with the
// process, whatever ends it; the file that a killed predecessor left locks
// nothing, and its record and its socket are removed. Without a runtime
// directory the claim holds nothing and writes nothing.
func Take(d Directories) (*Claim, error) {
	if d.Runtime == "" {
		return &Claim{}, nil
	}
	var err error
	for range claimTries {
		_, statErr := os.Stat(d.Runtime)
		if err = makeRuntime(d.Runtime); err != nil {
			if errors.Is(err, os.ErrExist) || errors.Is(err, os.ErrNotExist) {
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
		c := &Claim{dir: d.Runtime, ours: statErr != nil || !d.Given, lock: lock}
		c.removeFiles()
		if err := d.settle(lock); err != nil {
			c.Release()
			return nil, err
		}
		return c, nil
	}
	return nil, fmt.Errorf("making the runtime directory: %w", err)
}

// settle makes sure that the VM does not run in the other way, and lets whoever
// starts it so see our lock. Both have taken theirs before they look, so that
// never both go on.
func (d Directories) settle(lock *os.File) error {
	if d.Other == "" {
		return nil
	}
	if !d.Given {
		if err := errors.Join(os.Chmod(d.Runtime, 0o711), lock.Chmod(0o644)); err != nil {
			return fmt.Errorf("showing the lock: %w", err)
		}
	}
	if d.runsOtherwise() {
		return ErrRunning
	}
	return nil
}

// runsOtherwise reports whether the VM runs in the other way.
func (d Directories) runsOtherwise() bool {
	i, ok := Look(d.Other)
	return ok && i.Running
}

// Holder is the directory of whoever runs the VM, after ErrRunning.
func (d Directories) Holder() string {
	if d.Other != "" && d.runsOtherwise() {
		return d.Other
	}
	return d.Runtime
}

// makeRuntime makes a VM's directory, which is its user's alone, and those above
// it, through which VMs of other users must get to theirs.
func makeRuntime(dir string) error {
	above := filepath.Dir(dir)
	if err := os.MkdirAll(above, 0o755); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o700)
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
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
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

// lockFile locks the file that was opened under that name. It is two locks: a
// BSD lock, which keeps others out, and a POSIX lock, of which anybody can ask
// the kernel who holds it, without taking it even for a moment.
func lockFile(lock *os.File, path string) error {
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrRunning
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
	whole := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(lock.Fd(), syscall.F_SETLK, &whole); err != nil {
		return fmt.Errorf("taking the lock %s: %w", path, err)
	}
	return nil
}

// holder asks who holds the lock on a file: a process, 0 for one that cannot be
// named from here (of another PID namespace), and whether anybody does. A
// process does not see its own.
func holder(path string) (pid int, held bool, err error) {
	f, err := openRegular(path)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	whole := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &whole); err != nil {
		return 0, false, fmt.Errorf("asking who holds %s: %w", path, err)
	}
	if whole.Type == syscall.F_UNLCK {
		return 0, false, nil
	}
	return max(0, int(whole.Pid)), true, nil
}

// Dir is the VM's runtime directory; empty where there is none.
func (c *Claim) Dir() string { return c.dir }

// Write replaces the record, whole or not at all.
func (c *Claim) Write(rec Record) error {
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	return c.replace(newRecord, recordName, append(data, '\n'))
}

// WritePlan keeps the plan that is carried out, whole or not at all: nobody else
// may have it.
func (c *Claim) WritePlan(text []byte) error { return c.replace(newPlan, planName, text) }

// replace writes a file under another name and gives it its own.
func (c *Claim) replace(temporary, name string, data []byte) error {
	if c.dir == "" {
		return nil
	}
	// The lock is ours, so one name will do, and what a killed predecessor
	// left there is overwritten.
	path := filepath.Join(c.dir, temporary)
	tmp, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(path, filepath.Join(c.dir, name))
	}
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// removeFiles removes what is not the lock.
func (c *Claim) removeFiles() {
	for _, name := range []string{newRecord, recordName, newPlan, planName, ConsoleName, OrdersName, AgentName, APIName, VSockName, NotifyName} {
		_ = os.Remove(filepath.Join(c.dir, name))
	}
}

// Release removes what Take, Write and WritePlan made, the lock file last and while it is
// still locked, so that a successor never meets a half-removed record.
func (c *Claim) Release() {
	if c.dir == "" {
		return
	}
	c.removeFiles()
	_ = os.Remove(filepath.Join(c.dir, lockName))
	if c.ours {
		_ = os.Remove(c.dir)
	}
	c.lock.Close()
}
