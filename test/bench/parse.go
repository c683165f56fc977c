package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"

	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// unitDirectory holds the files that both parsers read.
const unitDirectory = "/usr/lib/systemd/system"

// rounds is how often each parser is measured, in turn; the best one counts,
// since what disturbs a computation only ever slows it down.
const rounds = 3

// measureParsers compares unitfile.Parse with the parser of go-systemd. Ours
// keeps file and line of every assignment and judges what systemd would; theirs
// does not.
func measureParsers(setup) ([]measurement, error) {
	files, bytesInAll, skipped, err := unitFiles()
	if err != nil {
		return nil, err
	}
	ours := func(data []byte) { unitfile.Parse("name", "main", data) }
	theirs := func(data []byte) { _, _ = unit.DeserializeOptions(bytes.NewReader(data)) }
	var mine, peers testing.BenchmarkResult
	for range rounds {
		mine = better(mine, parseAll(files, ours))
		peers = better(peers, parseAll(files, theirs))
	}
	rate := func(r testing.BenchmarkResult) float64 {
		return float64(bytesInAll) / 1e6 / (float64(r.NsPerOp()) / 1e9)
	}
	perFile := func(n int64) float64 { return float64(n) / float64(len(files)) }
	peer := "go-systemd " + moduleVersion("github.com/coreos/go-systemd/v22") + " unit.DeserializeOptions"
	what := fmt.Sprintf("parser: %d unit files", len(files))
	if skipped > 0 {
		what += fmt.Sprintf(" (%d left out that the peer refuses)", skipped)
	}
	return []measurement{
		{
			what: what, ours: rate(mine), peer: rate(peers), peerName: peer, show: showRate,
			bound: ratioAtLeast(rate(mine), rate(peers), 1),
		},
		{
			what: "parser: allocations a file", ours: perFile(mine.AllocsPerOp()), peer: perFile(peers.AllocsPerOp()),
			peerName: peer, show: showCount,
			bound: ratioAtMost(float64(mine.AllocsPerOp()), float64(peers.AllocsPerOp()), 1),
		},
		{
			what: "parser: memory a file", ours: perFile(mine.AllocedBytesPerOp()) / 1024, peer: perFile(peers.AllocedBytesPerOp()) / 1024,
			peerName: peer, show: showKiB,
		},
	}, nil
}

// better returns the faster one; the zero value is none.
func better(a, b testing.BenchmarkResult) testing.BenchmarkResult {
	if a.N == 0 || b.NsPerOp() < a.NsPerOp() {
		return b
	}
	return a
}

func parseAll(files [][]byte, parse func([]byte)) testing.BenchmarkResult {
	return testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for _, data := range files {
				parse(data)
			}
		}
	})
}

// unitFiles returns the unit files of this machine that both parsers read, and
// how many were left out.
func unitFiles() (files [][]byte, size, skipped int, err error) {
	err = filepath.WalkDir(unitDirectory, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, err := unit.DeserializeOptions(bytes.NewReader(data)); err != nil || unitfile.Parse(path, "main", data).Fatal() != nil {
			skipped++
			return nil
		}
		files, size = append(files, data), size+len(data)
		return nil
	})
	if err == nil && len(files) < 50 {
		err = fmt.Errorf("%s has %d unit files: too few to compare parsers", unitDirectory, len(files))
	}
	return files, size, skipped, err
}
