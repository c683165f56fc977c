package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fewUnits and manyUnits are how many files the generators get.
const fewUnits, manyUnits = 1000, 10000

// generatorDir holds what a generator is called with, as at boot.
const generatorDir = "/run/systemd/generator"

// measureGenerators compares ampoule-generator with Quadlet, of Debian 13, on
// one host: as many files, which say as much, in the place where each looks for
// them. What they write goes to a tmpfs, as at boot.
//
// The host is a directory that both change root into, with mounts that nobody
// else sees: they belong to one thread, which ends with the measurement.
func measureGenerators(s setup) (all []measurement, err error) {
	root, err := buildRoot("trixie", "--quiet", "--variant=minbase", "--include=podman")
	if err != nil {
		return nil, fmt.Errorf("building a root with podman: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlocked: the thread's mounts go with it
		var h host
		if h, err = newHost(s, root); err == nil {
			all, err = h.measure(s.runs)
		}
	}()
	<-ended
	return all, err
}

// host is the directory that is the root of the generators.
type host struct{ dir string }

// generator is one of the two.
type generator struct {
	program     string // as the host has it
	dir, suffix string // of its files
	text        string // of file %[1]d
	// unit is the name of the unit that it makes of file %d.
	unit string
}

func generators() (ours, quadlet generator) {
	ours = generator{
		program: "/usr/lib/systemd/system-generators/ampoule-generator", dir: "/etc/ampoule", suffix: ".microvm", unit: "microvm@vm%d.service",
		text: "[Unit]\nDescription=Web server %[1]d\n\n[MicroVM]\nKernel=/var/lib/ampoule/guest/vmlinuz\nInitrd=/var/lib/ampoule/guest/initrd\n" +
			"Disk=/srv/web-%[1]d.raw\nLoadCredential=MODE:/etc/web/mode-%[1]d\n\n[Install]\nWantedBy=multi-user.target\n",
	}
	quadlet = generator{
		program: "/usr/lib/systemd/system-generators/podman-system-generator", dir: "/etc/containers/systemd", suffix: ".container", unit: "vm%d.service",
		text: "[Unit]\nDescription=Web server %[1]d\n\n[Container]\nImage=registry.example.org/web/server:1.27\n" +
			"Volume=/srv/web-%[1]d:/srv\nEnvironment=MODE=production-%[1]d\n\n[Install]\nWantedBy=multi-user.target\n",
	}
	return ours, quadlet
}

func newHost(s setup, root string) (host, error) {
	h := host{filepath.Join(s.dir, "host")}
	memory := filepath.Join(s.dir, "host-memory")
	upper, work := filepath.Join(memory, "upper"), filepath.Join(memory, "work")
	if err := os.Mkdir(memory, 0o700); err != nil {
		return host{}, err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return host{}, os.NewSyscallError("unshare", err)
	}
	mount := func(kind, target, data string) error {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		return os.NewSyscallError("mount", unix.Mount(kind, target, kind, 0, data))
	}
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = mount("tmpfs", memory, "mode=0755")
	}
	err = errors.Join(err, os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755))
	if err == nil {
		err = mount("overlay", h.dir, "lowerdir="+root+",upperdir="+upper+",workdir="+work)
	}
	if err == nil {
		err = mount("proc", h.path("/proc"), "")
	}
	if err == nil {
		err = mount("tmpfs", h.path("/run"), "mode=0755")
	}
	if err != nil {
		return host{}, fmt.Errorf("making a host for generators: %w", err)
	}
	ours, _ := generators()
	program, err := os.ReadFile(filepath.Join(filepath.Dir(s.program), "ampoule-generator"))
	if err != nil {
		return host{}, err
	}
	return h, os.WriteFile(h.path(ours.program), program, 0o755)
}

func (h host) path(path string) string { return filepath.Join(h.dir, path) }

// measure is what all of them need for few files, and ours for many.
func (h host) measure(runs int) ([]measurement, error) {
	ours, quadlet := generators()
	version, err := h.command(quadlet, "-version").Output()
	if err != nil {
		return nil, fmt.Errorf("asking Quadlet for its version: %w", err)
	}
	peer := "Quadlet " + strings.TrimSpace(string(version)) + " of Debian 13"
	for _, g := range []generator{ours, quadlet} {
		if err := h.declare(g, 0, fewUnits); err != nil {
			return nil, err
		}
	}
	var few, theirs, bare, bareTheirs, many []time.Duration
	for n := range runs + 1 {
		took, err := h.run(ours, fewUnits)
		if err != nil {
			return nil, err
		}
		tookBare, err := h.again()
		if err != nil {
			return nil, err
		}
		tookPeer, err := h.run(quadlet, fewUnits)
		if err != nil {
			return nil, err
		}
		tookBareTheirs, err := h.again()
		if err != nil {
			return nil, err
		}
		if n > 0 { // the first fills the page cache
			few, theirs = append(few, took), append(theirs, tookPeer)
			bare, bareTheirs = append(bare, tookBare), append(bareTheirs, tookBareTheirs)
		}
	}
	peakOurs, err := h.peak(ours)
	if err != nil {
		return nil, err
	}
	peakTheirs, err := h.peak(quadlet)
	if err != nil {
		return nil, err
	}
	if err := h.declare(ours, fewUnits, manyUnits); err != nil {
		return nil, err
	}
	for range max(3, runs/4) {
		took, err := h.run(ours, manyUnits)
		if err != nil {
			return nil, err
		}
		many = append(many, took)
	}
	peakMany, err := h.peak(ours)
	if err != nil {
		return nil, err
	}
	line := func(name string, q float64) measurement {
		a, b := milliseconds(quantile(few, q)), milliseconds(quantile(theirs, q))
		return measurement{what: fmt.Sprintf("generator: %d units, %s", fewUnits, name), ours: a, peer: b, peerName: peer, show: showMilliseconds}
	}
	middle := line("median", 0.5)
	middle.bound = ratioAtMost(middle.ours, middle.peer, generatorRatioLimit)
	a, b := milliseconds(median(many)), milliseconds(median(few))
	return []measurement{
		middle, line("least", 0),
		{
			what: fmt.Sprintf("generator: bare creation of the same %d files and links, median", fewUnits), show: showMilliseconds,
			ours: milliseconds(median(bare)), peer: milliseconds(median(bareTheirs)), peerName: peer,
		},
		{
			what: fmt.Sprintf("generator: %d units, median", manyUnits), ours: a, peer: b, peerName: fmt.Sprintf("itself with %d", fewUnits), show: showMilliseconds,
			bound: ratioAtMost(a, b, generatorGrowthLimit),
		},
		{what: fmt.Sprintf("generator: %d units, peak memory", fewUnits), ours: peakOurs, peer: peakTheirs, peerName: peer, show: showMiB},
		{what: fmt.Sprintf("generator: %d units, peak memory", manyUnits), ours: peakMany, show: showMiB},
	}, nil
}

// declare writes the files with the numbers from first to below last.
func (h host) declare(g generator, first, last int) error {
	if err := os.MkdirAll(h.path(g.dir), 0o755); err != nil {
		return err
	}
	for i := first; i < last; i++ {
		file := filepath.Join(h.path(g.dir), fmt.Sprintf("vm%d%s", i, g.suffix))
		if err := os.WriteFile(file, fmt.Appendf(nil, g.text, i), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// directories are the arguments of a generator, as systemd gives them.
func directories() []string {
	return []string{generatorDir, generatorDir + ".early", generatorDir + ".late"}
}

// command is a generator, or another use of its program, on the host.
func (h host) command(g generator, args ...string) *exec.Cmd {
	cmd := exec.Command(g.program, args...)
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: h.dir}
	return cmd
}

// clear leaves /run as systemd does before it calls generators, with nothing in
// it that one wrote before.
func (h host) clear() error {
	err := os.RemoveAll(h.path("/run/ampoule"))
	for _, dir := range directories() {
		err = errors.Join(err, os.RemoveAll(h.path(dir)), os.MkdirAll(h.path(dir), 0o755))
	}
	return err
}

// run is the time from a generator's start to its end. It is an error if a unit
// or its link is missing.
func (h host) run(g generator, units int) (time.Duration, error) {
	if err := h.clear(); err != nil {
		return 0, err
	}
	cmd := h.command(g, directories()...)
	var words bytes.Buffer
	cmd.Stderr = &words
	started := time.Now()
	err := cmd.Run()
	took := time.Since(started)
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%.2000s", g.program, err, words.String())
	}
	for i := range units {
		unit := fmt.Sprintf(g.unit, i)
		link := filepath.Join(h.path(generatorDir), "multi-user.target.wants", unit)
		if _, err := os.Stat(link); err != nil {
			return 0, fmt.Errorf("%s made no %s that is wanted: %w\n%.2000s", g.program, unit, err, words.String())
		}
	}
	return took, nil
}

// again is the time to create what the last generator made, the same bytes and
// links, one after the other.
func (h host) again() (time.Duration, error) {
	type file struct {
		name   string
		data   []byte
		target string
	}
	from, to := h.path(generatorDir), h.path("/run/bare")
	var files []file
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f := file{name: to + strings.TrimPrefix(path, from)}
		if d.Type()&fs.ModeSymlink != 0 {
			f.target, err = os.Readlink(path)
		} else {
			f.data, err = os.ReadFile(path)
		}
		files = append(files, f)
		return errors.Join(err, os.MkdirAll(filepath.Dir(f.name), 0o755))
	})
	if err != nil {
		return 0, fmt.Errorf("reading what a generator wrote: %w", err)
	}
	if len(files) != 2*fewUnits {
		return 0, fmt.Errorf("a generator wrote %d files and links for %d units", len(files), fewUnits)
	}
	started := time.Now()
	for _, f := range files {
		if f.target != "" {
			err = syscall.Symlink(f.target, f.name)
		} else {
			err = create(f.name, f.data)
		}
		if err != nil {
			return 0, &fs.PathError{Op: "create", Path: f.name, Err: err}
		}
	}
	took := time.Since(started)
	return took, os.RemoveAll(to)
}

func create(name string, data []byte) error {
	fd, err := syscall.Open(name, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	_, err = syscall.Write(fd, data)
	return errors.Join(err, syscall.Close(fd))
}

// peakArgument makes this program run another and tell its peak memory.
const peakArgument = "peak-memory-of"

// peak is the most memory, in MiB, that a generator has at once. The kernel
// counts what a process had before it executed the generator too, which for a
// child of this one would be all that was measured here so far.
func (h host) peak(g generator) (float64, error) {
	if err := h.clear(); err != nil {
		return 0, err
	}
	cmd := exec.Command("/proc/self/exe", append([]string{peakArgument, h.dir, g.program}, directories()...)...)
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("measuring the memory of %s: %w", g.program, err)
	}
	var kib float64
	if _, err := fmt.Sscan(string(out), &kib); err != nil {
		return 0, err
	}
	return kib / 1024, nil
}

// tellPeak runs ROOT PROGRAM ARGUMENT… and prints the peak in KiB.
func tellPeak(args []string) int {
	cmd := host{args[0]}.command(generator{program: args[1]}, args[2:]...)
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 1
	}
	fmt.Println(usage.Maxrss)
	return 0
}
