package main

// The bounds in numbers. They are well above what a quiet machine shows, so that
// a busy one does not break them, and a mistake of design does.
const (
	// overheadLimit, in milliseconds: reading files, judging the host, sealing
	// credentials, one more process between exec and exec.
	overheadLimit = 60
	// memoryLimit, in MiB.
	memoryLimit = 20
	// bootRatioLimit is the share of the time of the same guest with QEMU by
	// hand.
	bootRatioLimit = 1.3
	// throughputRatioLimit is the share of the throughput of QEMU by hand.
	throughputRatioLimit = 0.98
	// generatorRatioLimit is the share of Quadlet's time for as many files, and
	// generatorGrowthLimit how much longer ten times as many may take.
	generatorRatioLimit, generatorGrowthLimit = 0.5, 11
)

// The aims are what a quiet machine is to show. One that is missed is printed
// as such and breaks nothing.
const (
	// execAim, in milliseconds, and execRatioAim, the share of
	// systemd-vmspawn's time.
	execAim, execRatioAim = 8, 0.4
	// bootRatioAim is the share of the time of QEMU by hand.
	bootRatioAim = 1.02
	// privateAim, in MiB: six million bytes.
	privateAim = 6e6 / (1 << 20)
)
