package tsc

// counter reads the time-stamp counter, in order with the instructions around.
func counter() uint64

// cpuid executes the instruction of that name.
func cpuid(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)

func supported() bool {
	const tscBit = 1 << 4
	_, _, _, features := cpuid(1, 0)
	return features&tscBit != 0
}

// nominalKHz returns the rates that the processor or the hypervisor above us
// state, most trustworthy first. Leaf 0x16 is left out: it holds the
// frequency of the data sheet, rounded to a MHz, and a measurement is better.
func nominalKHz() []float64 {
	var rates []float64
	const hypervisorBit = 1 << 31
	if _, _, features, _ := cpuid(1, 0); features&hypervisorBit != 0 {
		// Leaf 0x40000010 is VMware's convention; KVM and others follow it.
		if top, _, _, _ := cpuid(0x40000000, 0); top >= 0x40000010 && top < 0x40010000 {
			khz, _, _, _ := cpuid(0x40000010, 0)
			rates = append(rates, float64(khz))
		}
	}
	top, _, _, _ := cpuid(0, 0)
	if top >= 0x15 {
		// Leaf 0x15: the counter makes ebx ticks in eax of the crystal's.
		denominator, numerator, hertz, _ := cpuid(0x15, 0)
		if denominator != 0 && numerator != 0 && hertz != 0 {
			rates = append(rates, float64(hertz)/1000*float64(numerator)/float64(denominator))
		}
	}
	return rates
}
