package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// measurement is one line of the table.
type measurement struct {
	what string
	// ours and peer are in the same unit, which show writes. A peer of 0 is
	// none.
	ours, peer float64
	peerName   string
	show       func(float64) string
	bound      bound
	// aims are wished for; one that is missed is no error.
	aims []bound
}

// bound is what must hold. The zero value asks for nothing.
type bound struct {
	text  string
	holds bool
}

// atMost is a bound on a value, written as show writes it.
func atMost(value, limit float64, show func(float64) string) bound {
	return bound{"at most " + show(limit), value <= limit}
}

// ratioAtMost is a bound on our share of the peer's value.
func ratioAtMost(ours, peer, limit float64) bound {
	return bound{fmt.Sprintf("ratio at most %.2f", limit), ours <= limit*peer}
}

// ratioAtLeast is ratioAtMost for values of which more is better.
func ratioAtLeast(ours, peer, limit float64) bound {
	return bound{fmt.Sprintf("ratio at least %.2f", limit), ours >= limit*peer}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func showMilliseconds(v float64) string { return fmt.Sprintf("%.1f ms", v) }
func showSeconds(v float64) string      { return fmt.Sprintf("%.2f s", v) }
func showMiB(v float64) string          { return fmt.Sprintf("%.1f MiB", v) }
func showRate(v float64) string         { return fmt.Sprintf("%.1f MB/s", v) }
func showCount(v float64) string        { return fmt.Sprintf("%.1f", v) }
func showKiB(v float64) string          { return fmt.Sprintf("%.1f KiB", v) }

// report prints the table; it is an error when a bound is broken.
func report(out io.Writer, all []measurement) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tAMPOULE\tPEER\tRATIO\tTHE PEER\tBOUND\tAIM")
	broken, missed := 0, 0
	for _, m := range all {
		peer, ratio, verdict := "-", "-", "none"
		if m.peer != 0 {
			peer, ratio = m.show(m.peer), fmt.Sprintf("%.2f", m.ours/m.peer)
		}
		if m.bound.text != "" {
			verdict = m.bound.text + ": holds"
			if !m.bound.holds {
				verdict = m.bound.text + ": BROKEN"
				broken++
			}
		}
		aim := "none"
		for i, a := range m.aims {
			text := a.text + ": met"
			if !a.holds {
				text = a.text + ": MISSED"
				missed++
			}
			if i == 0 {
				aim = text
				continue
			}
			aim += ", " + text
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.what, m.show(m.ours), peer, ratio, m.peerName, verdict, aim)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if missed != 0 {
		fmt.Fprintf(out, "\naims missed: %d\n", missed)
	}
	if broken != 0 {
		return fmt.Errorf("%w: %d of %d lines", errBound, broken, len(all))
	}
	return nil
}
