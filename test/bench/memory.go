package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// memory is what a process has in memory, in MiB.
type memory struct {
	resident float64 // all of it
	private  float64 // what no other process maps: freed if this one ended
	dirty    float64 // of the private, what is in no file: this alone needs swap
}

// memoryOf reads the memory of a process, page by page.
func memoryOf(pid int) (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return memory{}, fmt.Errorf("reading the memory of a process: %w", err)
	}
	found := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		if name, rest, ok := strings.Cut(line, ":"); ok {
			if kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB")); err == nil {
				found[name] = float64(kib) / 1024
			}
		}
	}
	m := memory{resident: found["Rss"], private: found["Private_Clean"] + found["Private_Dirty"], dirty: found["Private_Dirty"]}
	if m.resident == 0 || m.dirty == 0 {
		return memory{}, fmt.Errorf("the memory of process %d has the lines %q", pid, text)
	}
	return m, nil
}

// memoryTable has the aim for private memory only.
func memoryTable(when string, ours, peer memory, peerName string) []measurement {
	what := "memory: of ampoule run while the guest boots, " + when + ", "
	return []measurement{
		{
			what: what + "private", ours: ours.private, peer: peer.private, peerName: peerName, show: showMiB,
			bound: atMost(ours.private, memoryLimit, showMiB), aims: []bound{atMost(ours.private, privateAim, showMiB)},
		},
		{what: what + "private and dirty", ours: ours.dirty, peer: peer.dirty, peerName: peerName, show: showMiB},
		{what: what + "resident", ours: ours.resident, peer: peer.resident, peerName: peerName, show: showMiB},
	}
}
