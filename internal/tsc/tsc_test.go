package tsc

import (
	"errors"
	"math"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
)

func need(t testing.TB) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		if khz, err := KHz(); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%d kHz, %v", khz, err)
		}
		t.Skip("needs amd64: the time-stamp counter")
	}
}

func TestMeasurementsAgree(t *testing.T) {
	need(t)
	first, err := KHz()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, err := KHz()
		if err != nil {
			t.Fatal(err)
		}
		if d := math.Abs(float64(again-first)) / float64(first); d > 0.001 {
			t.Errorf("%d kHz, then %d: %.3f %% apart", first, again, d*100)
		}
	}
	t.Logf("%d kHz; stated by the processor: %v", first, nominalKHz())
}

// The rate must also be right while other goroutines keep every CPU busy.
func TestMeasurementUnderLoad(t *testing.T) {
	need(t)
	quiet, err := KHz()
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	defer stop.Store(true)
	for range 2 * runtime.NumCPU() {
		go func() {
			for !stop.Load() {
			}
		}()
	}
	loaded, err := KHz()
	if err != nil {
		t.Fatal(err)
	}
	if d := math.Abs(float64(loaded-quiet)) / float64(quiet); d > 0.001 {
		t.Errorf("%d kHz, under load %d: %.3f %% apart", quiet, loaded, d*100)
	}
}

// A processor's nominal and present speeds stray from its counter's rate, but
// not by a factor.
func TestPlausible(t *testing.T) {
	need(t)
	khz, err := KHz()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^cpu MHz\s*: ([0-9.]+)$`).FindSubmatch(info)
	if m == nil {
		t.Skip("/proc/cpuinfo tells no MHz")
	}
	mhz, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	if ratio := float64(khz) / 1000 / mhz; ratio < 0.25 || ratio > 6 {
		t.Errorf("%d kHz at %.3f MHz", khz, mhz)
	}
}

func TestSettle(t *testing.T) {
	const rate = 2.6e6
	tests := []struct {
		name  string
		rates []float64
		want  float64 // 0: ErrUnstable
	}{
		{"two agree", []float64{rate, rate * 1.0002}, rate * 1.0001},
		{"one outlier", []float64{rate, rate * 1.5, rate}, rate},
		{"outlier first", []float64{rate * 0.9, rate, rate}, rate},
		{"agreement with an older one", []float64{rate, rate * 1.1, rate * 1.2, rate * 1.1}, rate * 1.1},
		{"never", []float64{1e6, 1.1e6, 1.2e6, 1.3e6, 1.4e6, 1.5e6, 1.6e6, 1.7e6}, 0},
		{"stuck", []float64{0, 0, 0, 0, 0, 0, 0, 0}, 0},
		{"backwards", []float64{-rate, -rate, -rate, -rate, -rate, -rate, -rate, -rate}, 0},
		{"absurd", []float64{1e12, 1e12, math.NaN(), math.Inf(1), 1e12, 1e12, 1e12, 1e12}, 0},
	}
	for _, tt := range tests {
		got, err := settle(func() (float64, error) {
			next := tt.rates[0]
			tt.rates = tt.rates[1:]
			return next, nil
		})
		if tt.want == 0 {
			if !errors.Is(err, ErrUnstable) {
				t.Errorf("%s: %v, %v", tt.name, got, err)
			}
		} else if err != nil || math.Abs(got-tt.want) > 1 {
			t.Errorf("%s: got %v, want %v; %v", tt.name, got, tt.want, err)
		}
	}
	want := errors.New("no clock")
	if _, err := settle(func() (float64, error) { return 0, want }); !errors.Is(err, want) {
		t.Errorf("error %v", err)
	}
}

func BenchmarkKHz(b *testing.B) {
	need(b)
	low, high := math.MaxInt, 0
	for b.Loop() {
		khz, err := KHz()
		if err != nil {
			b.Fatal(err)
		}
		low, high = min(low, khz), max(high, khz)
	}
	b.ReportMetric(float64(high-low)/float64(high)*1e6, "ppm-spread")
}

func BenchmarkEdge(b *testing.B) {
	need(b)
	for b.Loop() {
		if _, err := sampleEdge(); err != nil {
			b.Fatal(err)
		}
	}
}
