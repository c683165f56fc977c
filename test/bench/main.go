// Command bench measures Ampoule beside named peers, both in the same run and
// in turn, and prints one table. It exits 1 when a bound is broken: what the
// README promises of speed and memory is what stands in the last column.
//
// It measures the built program, bin/ampoule, and needs root. Correctness is no
// business of this folder: what a start delivers, test/vm proves.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
)

// errBound is a bound that does not hold.
var errBound = errors.New("a bound is broken")

func main() {
	if len(os.Args) == 2 && os.Args[1] == payloadArgument {
		payload()
		return
	}
	if len(os.Args) > 2 && os.Args[1] == peakArgument {
		os.Exit(tellPeak(os.Args[2:]))
	}
	if len(os.Args) == 3 && os.Args[1] == verifyArgument {
		runs, err := strconv.Atoi(os.Args[2])
		if err != nil {
			os.Exit(2)
		}
		os.Exit(verifyHere(runs))
	}
	runs := flag.Int("runs", 20, "starts, and plans, of each kind")
	boots := flag.Int("boots", 3, "boots to power-off of each kind")
	only := flag.String("only", "", "measure `PART` alone")
	bin := flag.String("bin", "bin", "`DIRECTORY` of the programs")
	flag.Parse()
	err := bench(*bin, *runs, *boots, *only)
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// setup is what all measurements share.
type setup struct {
	program string // bin/ampoule
	dir     string // temporary, absolute
	cache   string // where ampoule run remembers what it looked into
	guest   guest.Guest
	runs    int
	boots   int
}

// part is one measurement of several lines.
type part struct {
	name    string
	measure func(setup) ([]measurement, error)
}

var parts = []part{
	{"starts", measureStarts},
	{"execs", measureExecs},
	{"boots", measureBoots},
	{"supervisors", measureSupervisor},
	{"throughput", measureThroughput},
	{"shares", measureShares},
	{"plans", measurePlans},
	{"parsers", measureParsers},
	{"generator", measureGenerators},
	{"verify", measureVerify},
	{"diagnose", measureDiagnose},
	{"notify", measureNotify},
}

func bench(bin string, runs, boots int, only string) error {
	if runs < 1 || boots < 1 {
		return fmt.Errorf("-runs=%d -boots=%d: at least one is needed", runs, boots)
	}
	chosen := slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return only != "" && p.name != only })
	if len(chosen) == 0 {
		return fmt.Errorf("-only=%s: there is no such part", only)
	}
	program, err := filepath.Abs(filepath.Join(bin, "ampoule"))
	if err != nil {
		return err
	}
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("looking for the program, which make build makes: %w", err)
	}
	g, err := guest.Build("bookworm")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ampoule-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := setup{program: program, dir: dir, cache: filepath.Join(dir, "cache"), guest: g, runs: runs, boots: boots}

	fmt.Printf("%d processors, %s, %s\n\n", runtime.NumCPU(), runtime.GOARCH, runtime.Version())
	var all []measurement
	for _, part := range chosen {
		fmt.Fprintf(os.Stderr, "measuring %s ...\n", part.name)
		found, err := part.measure(s)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", part.name, err)
		}
		all = append(all, found...)
	}
	fmt.Fprintln(os.Stderr)
	return report(os.Stdout, all)
}

// median of at least one number; of an even count, the lower of the two in the
// middle.
func median[T cmp.Ordered](of []T) T { return quantile(of, 0.5) }

func quantile[T cmp.Ordered](of []T, q float64) T {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[int(q*float64(len(sorted)-1))]
}

// version returns the first word with a digit in front of what a program
// answers to --version.
func version(program string) (string, error) {
	out, err := exec.Command(program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", program, err)
	}
	for word := range strings.FieldsSeq(string(out)) {
		if word[0] >= '0' && word[0] <= '9' {
			return strings.TrimRight(word, ","), nil
		}
	}
	return "", fmt.Errorf("%s --version names no version", program)
}

// moduleVersion returns the version of a dependency that this program was built
// with.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return "of unknown version"
}
