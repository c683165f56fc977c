// Command probe is the init of the guests of package shim's tests. It reports
// what it finds on the second serial port and ends the guest.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	_ "github.com/ampoule-vm/ampoule/internal/shim/entry" // it is init without a console too
	"github.com/ampoule-vm/ampoule/internal/shim/layout"
	"github.com/ampoule-vm/ampoule/test/shim/report"
)

func main() {
	open := descriptors()
	if _, ok := os.LookupEnv(report.Stay); ok {
		say([]byte(report.Begin + "{}" + report.End))
		for {
			_ = syscall.Pause()
		}
	}
	p := probe{}
	p.look(open)
	data, err := json.Marshal(p.report)
	if err != nil {
		data = []byte(strconv.Quote(err.Error()))
	}
	say([]byte(report.Begin + string(data) + report.End + "\n"))
	syscall.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// say writes to the second serial port, which has a node already where /dev is
// mounted.
func say(data []byte) {
	const port = "/dev/ttyS1"
	_ = os.Mkdir("/dev", 0o755)
	if _, err := os.Lstat(port); err != nil {
		_ = syscall.Mknod(port, syscall.S_IFCHR|0o600, 4<<8|65)
	}
	f, err := os.OpenFile(port, os.O_WRONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		fmt.Println("probe:", err)
		return
	}
	if _, err := f.Write(data); err != nil {
		fmt.Println("probe:", err)
	}
	// Closing waits until the port has sent it all.
	if err := f.Close(); err != nil {
		fmt.Println("probe:", err)
	}
}

// descriptors lists what is open before anything is opened here.
func descriptors() []int {
	var out []int
	for fd := range 64 {
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFL, 0)
		const path = 0o10000000 // O_PATH: put there by package entry, for want of a console
		if errno == 0 && flags&path == 0 {
			out = append(out, fd)
		}
	}
	return out
}

type probe struct {
	report report.Report
	// needles are parts of the values, by their first two bytes: a guest that
	// is emulated must not look for each of a thousand in each file.
	needles [1 << 16][][]byte
}

func (p *probe) note(what string, err error) {
	if err != nil {
		p.report.Problems = append(p.report.Problems, what+": "+err.Error())
	}
}

func (p *probe) look(open []int) {
	r := &p.report
	r.Open, r.Args, r.Env = open, os.Args, os.Environ()
	var err error
	r.Cwd, err = os.Getwd()
	p.note("getwd", err)
	r.Umask = syscall.Umask(0o022)
	if store := os.Getenv(layout.Variable); store != "" {
		r.Store = p.walk(store, "", func(path string, _ []byte) {})
		for _, f := range r.Store {
			data, err := os.ReadFile(f.Path)
			if err == nil {
				for _, w := range windows(data) {
					at := int(w[0])<<8 | int(w[1])
					p.needles[at] = append(p.needles[at], w)
				}
			}
		}
		test := filepath.Join(store, "probe-was-here")
		if err := os.WriteFile(test, nil, 0o600); err == nil {
			r.Writable = true
			p.note("remove", os.Remove(test))
		}
	}
	r.Root = p.walk("/", "", p.scan)
	if _, err := os.Stat(layout.Run); err == nil {
		r.Run = p.walk(layout.Run, layout.Store, p.scan)
	}
	p.note("mkdir /proc", os.MkdirAll("/proc", 0o555))
	p.note("mount /proc", syscall.Mount("proc", "/proc", "proc", 0, ""))
	environ, err := os.ReadFile("/proc/1/environ")
	p.note("environ", err)
	r.Environ = string(environ)
	mounts, err := os.ReadFile("/proc/mounts")
	p.note("mounts", err)
	r.Mounts = strings.Split(strings.TrimSpace(string(mounts)), "\n")
	for _, name := range []string{"/proc/cmdline", "/proc/1/cmdline", "/proc/1/environ"} {
		data, err := os.ReadFile(name)
		p.note(name, err)
		p.scan(name, data)
	}
}

// walk lists a directory and what is below it on the same file system, except
// for what is at or below skip.
func (p *probe) walk(top, skip string, content func(string, []byte)) []report.File {
	var out []report.File
	var st syscall.Stat_t
	if err := syscall.Stat(top, &st); err != nil {
		p.note("stat "+top, err)
		return nil
	}
	device := st.Dev
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			p.note("walk", err)
			return nil
		}
		if err := syscall.Lstat(path, &st); err != nil {
			p.note("lstat "+path, err)
			return nil
		}
		if path == skip || st.Dev != device {
			return fs.SkipDir
		}
		f := report.File{Path: path, Mode: st.Mode, Size: st.Size}
		switch {
		case d.Type() == fs.ModeSymlink:
			f.Link, err = os.Readlink(path)
			p.note("readlink", err)
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			p.note("read", err)
			sum := sha256.Sum256(data)
			f.SHA256 = hex.EncodeToString(sum[:])
			content(path, data)
		}
		if path != top {
			out = append(out, f)
		}
		return nil
	})
	p.note("walk "+top, err)
	return out
}

// windows returns the beginning, the middle and the end of a value that is long
// enough not to be found by chance.
func windows(value []byte) [][]byte {
	const least, width = 12, 32
	if len(value) < least {
		return nil
	}
	if len(value) <= width {
		return [][]byte{value}
	}
	middle := len(value)/2 - width/2
	return [][]byte{value[:width], value[middle : middle+width], value[len(value)-width:]}
}

func (p *probe) scan(path string, data []byte) {
	p.report.Scanned += len(data)
	for i := range max(0, len(data)-1) {
		for _, n := range p.needles[int(data[i])<<8|int(data[i+1])] {
			if bytes.HasPrefix(data[i:], n) {
				p.report.Leaks = append(p.report.Leaks, path)
				return
			}
		}
	}
}
