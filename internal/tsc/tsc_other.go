//go:build !amd64

package tsc

func counter() uint64       { return 0 }
func supported() bool       { return false }
func nominalKHz() []float64 { return nil }
