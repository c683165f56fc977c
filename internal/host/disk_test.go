package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// vhd is an image of that type: its data, and its footer.
func vhd(kind uint32, begins string) string {
	image := make([]byte, 3*SectorSize)
	copy(image, begins)
	footer := image[2*SectorSize:]
	copy(footer, vhdMagic)
	binary.BigEndian.PutUint32(footer[vhdType:], kind)
	return string(image)
}

func TestDiskFormats(t *testing.T) {
	zeros := string(make([]byte, SectorSize))
	for name, tt := range map[string]struct {
		contents string
		disk     Disk
		want     string // empty: fine
	}{
		"vhd of fixed size":           {vhd(vhdFixed, ""), Disk{Format: "vhd", FixedVHD: true}, ""},
		"vhd that grows":              {vhd(3, vhdMagic), Disk{Format: "vhd"}, ""},
		"vhd that grows, not read":    {vhd(3, vhdMagic), Disk{Format: "vhd", FixedVHD: true}, "a vhd that grows, of which this hypervisor reads only those of fixed size"},
		"vhd of a difference":         {vhd(vhdDiffers, vhdMagic), Disk{Format: "vhd"}, "the difference to another"},
		"vhd without a footer":        {zeros, Disk{Format: "vhd"}, "not a vhd image: it does not end in a footer"},
		"vhd that is a vhdx":          {vhdxMagic + zeros, Disk{Format: "vhd"}, "begins like a vhdx image"},
		"vhd smaller than its footer": {"x", Disk{Format: "vhd"}, "invalid argument"},
		"vhdx":                        {vhdxMagic + zeros, Disk{Format: "vhdx"}, ""},
		"vhdx that is none":           {zeros, Disk{Format: "vhdx"}, "not a vhdx image"},
		"raw that is a vhdx":          {vhdxMagic + zeros, Disk{Format: "raw"}, "this is a vhdx image; write :vhdx behind the path"},
		"raw that is a vhd":           {vhd(3, vhdMagic), Disk{Format: "raw"}, "this is a vhd image; write :vhd behind the path"},
		"raw less than a sector":      {zeros[1:], Disk{Format: "raw"}, "the disk has 511 bytes, which is less than a sector of 512"},
		"raw of a sector":             {zeros, Disk{Format: "raw"}, ""},
	} {
		tt.disk.Path = filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(tt.disk.Path, []byte(tt.contents), 0o600); err != nil {
			t.Fatal(err)
		}
		err := CheckDisk(tt.disk)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestDirect: what has no direct access is told before the start. /proc has none.
func TestDirect(t *testing.T) {
	if err := (Disk{Path: "/proc/self/status", ReadOnly: true}).checkDirect(); err == nil || !strings.Contains(err.Error(), "no direct access (O_DIRECT)") {
		t.Error(err)
	}
}

// lock is one that somebody else holds, on a description of its own.
type lock struct {
	kind       int16
	start, end int64
}

// TestDiskFree: the locks that QEMU and cloud-hypervisor hold, and others.
func TestDiskFree(t *testing.T) {
	qemuReads := []lock{{unix.F_RDLCK, 100, 101}, {unix.F_RDLCK, 201, 202}, {unix.F_RDLCK, 203, 204}}
	qemuWrites := append([]lock{{unix.F_RDLCK, 101, 102}}, qemuReads...)
	for name, tt := range map[string]struct {
		locks       []lock
		read, write bool // still free for
	}{
		"nobody":                        {nil, true, true},
		"somebody at other bytes":       {[]lock{{unix.F_WRLCK, 0, 99}, {unix.F_WRLCK, 300, 0}}, true, true},
		"qemu reads":                    {qemuReads, true, false},
		"qemu writes":                   {qemuWrites, false, false},
		"cloud-hypervisor reads":        {[]lock{{unix.F_RDLCK, 0, 4096}}, true, false},
		"cloud-hypervisor writes":       {[]lock{{unix.F_WRLCK, 0, 4096}}, false, false},
		"a whole file is locked":        {[]lock{{unix.F_WRLCK, 0, 0}}, false, false},
		"a whole file for reading":      {[]lock{{unix.F_RDLCK, 0, 0}}, true, false},
		"qemu shares nothing with us":   {[]lock{{unix.F_RDLCK, 200, 201}}, true, false},
		"qemu resizes and shares all":   {[]lock{{unix.F_RDLCK, 103, 104}}, true, false},
		"two locks of a writer at once": {[]lock{{unix.F_WRLCK, 100, 102}}, false, false},
	} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		other, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range tt.locks {
			length := l.end - l.start
			if l.end == 0 {
				length = 0
			}
			if err := unix.FcntlFlock(other.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: l.kind, Start: l.start, Len: length}); err != nil {
				t.Fatal(err)
			}
		}
		for _, d := range []Disk{{Path: path}, {Path: path, ReadOnly: true}} {
			free := tt.write
			if d.ReadOnly {
				free = tt.read
			}
			if err := DiskFree(d); (err == nil) != free || err != nil && !errors.Is(err, ErrInUse) {
				t.Errorf("%s, read-only %v: %v", name, d.ReadOnly, err)
			}
			f, err := LockDisk(d)
			if (err == nil) != free || err != nil && !errors.Is(err, ErrInUse) {
				t.Errorf("%s, read-only %v, to be locked: %v", name, d.ReadOnly, err)
			}
			if f != nil {
				f.Close()
			}
		}
		other.Close()
	}
}

// TestLockDisk: two may read, one may write, and a lock ends with the file.
func TestLockDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	rw, ro := Disk{Path: path}, Disk{Path: path, ReadOnly: true}
	first, err := LockDisk(ro)
	if err != nil {
		t.Fatal(err)
	}
	second, err := LockDisk(ro)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockDisk(rw); !errors.Is(err, ErrInUse) {
		t.Errorf("written while it is read: %v", err)
	}
	first.Close()
	second.Close()
	writer, err := LockDisk(rw)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []Disk{rw, ro} {
		if _, err := LockDisk(d); !errors.Is(err, ErrInUse) {
			t.Errorf("%+v while it is written: %v", d, err)
		}
	}
	writer.Close()
	if err := errors.Join(DiskFree(rw), DiskFree(ro)); err != nil {
		t.Error(err)
	}
}

// TestLockHolder: the process that has a disk is named.
func TestLockHolder(t *testing.T) {
	if path := os.Getenv("AMPOULE_TEST_LOCK"); path != "" {
		f, err := LockDisk(Disk{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("locked\n")
		_, _ = os.Stdin.Read(make([]byte, 1))
		f.Close()
		return
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockHolder$")
	cmd.Env = append(os.Environ(), "AMPOULE_TEST_LOCK="+path)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	said := make([]byte, len("locked\n"))
	if _, err := out.Read(said); err != nil || !bytes.HasPrefix(said, []byte("locked")) {
		t.Fatalf("%q %v", said, err)
	}
	err := DiskFree(Disk{Path: path, ReadOnly: true})
	if err == nil || !strings.Contains(err.Error(), "the disk is in use by process ") || !strings.HasSuffix(err.Error(), ", which writes it") {
		t.Error(err)
	}
}
