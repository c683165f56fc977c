package fake

// balloon and hotplug are memory that comes and goes, by vmm_config/balloon.rs,
// memory_hotplug.rs, devices/virtio/balloon and mem. What the guest's driver does
// not take up, cannot be changed: the real device is active only when it has.

const (
	errNoDevice   = words("Failed perform action on device: Device not found")
	errInactive   = words("Balloon: Device not activated yet.")
	errMemIdle    = words("Failed to create memory hotplug device: Device is not active")
	errNoStats    = words("Balloon: Received stats query when stats are disabled.")
	errStatsState = words("Balloon: Statistics cannot be enabled/disabled after activation.")
	smallestBlock = 2   // MiB
	smallestSlot  = 128 // MiB
	pagesPerMiB   = 256
)

// putBalloon is compared with the memory of the moment; a later change of that is
// compared with it.
func (v *resources) putBalloon(config map[string]any) error {
	if config["amount_mib"].(uint64) > v.machine.mem {
		return words("Amount of pages requested is too large.")
	}
	v.balloon = config
	return nil
}

func (v *resources) balloonJSON() string {
	return string(ordered(balloonSchema(), v.balloon, nil))
}

// patchBalloon asks the guest for memory, or gives it back.
func (p *process) patchBalloon(config map[string]any) error {
	if p.vm.balloon == nil {
		return errNoDevice
	}
	if !p.run.takesMemory {
		return errInactive
	}
	amount := config["amount_mib"].(uint64)
	if amount > p.vm.machine.mem+p.run.requested {
		return wordsf("Balloon: Requested memory should be less than %dMiB", amount)
	}
	p.vm.balloon["amount_mib"] = amount
	return nil
}

func (p *process) patchStatistics(config map[string]any) error {
	if p.vm.balloon == nil {
		return errNoDevice
	}
	now, next := p.vm.balloon["stats_polling_interval_s"].(uint64), config["stats_polling_interval_s"].(uint64)
	if (now == 0) != (next == 0) {
		return errStatsState
	}
	p.vm.balloon["stats_polling_interval_s"] = next
	return nil
}

// statistics are the two numbers of the balloon; what only a guest could tell is
// left out, as long as none has.
func (p *process) statistics() (string, error) {
	if p.vm.balloon == nil {
		return "", errNoDevice
	}
	if p.vm.balloon["stats_polling_interval_s"].(uint64) == 0 {
		return "", errNoStats
	}
	target := p.vm.balloon["amount_mib"].(uint64)
	actual := uint64(0)
	if p.run.takesMemory {
		actual = target
	}
	return asJSON(struct {
		TargetPages uint64 `json:"target_pages"`
		ActualPages uint64 `json:"actual_pages"`
		Target      uint64 `json:"target_mib"`
		Actual      uint64 `json:"actual_mib"`
	}{target * pagesPerMiB, actual * pagesPerMiB, target, actual}), nil
}

func (v *resources) putHotplug(config map[string]any) error {
	total, block, slot := config["total_size_mib"].(uint64), config["block_size_mib"].(uint64), config["slot_size_mib"].(uint64)
	switch {
	case block < smallestBlock:
		return wordsf("Block size must not be lower than %d MiB", smallestBlock)
	case block&(block-1) != 0:
		return words("Block size must be a power of 2")
	case slot < smallestSlot:
		return wordsf("Slot size must not be lower than %d MiB", smallestSlot)
	case slot%block != 0:
		return wordsf("Slot size must be a multiple of block size (%d MiB)", block)
	case total < slot:
		return wordsf("Total size must not be lower than slot size (%d MiB)", slot)
	case total%slot != 0:
		return wordsf("Total size must be a multiple of slot size (%d MiB)", slot)
	}
	v.hotplug = config
	return nil
}

func (p *process) patchHotplug(config map[string]any) error {
	if p.vm.hotplug == nil {
		return errNoDevice
	}
	if !p.run.takesMemory {
		return errMemIdle
	}
	size := config["requested_size_mib"].(uint64)
	if size%p.vm.hotplug["block_size_mib"].(uint64) != 0 || size > p.vm.hotplug["total_size_mib"].(uint64) {
		return wordsf("Failed to create memory hotplug device: Size %d is invalid: it must be a multiple of block size and less than the total size", size<<20)
	}
	p.run.requested = size
	return nil
}

func (p *process) hotplugStatus() (string, error) {
	if p.vm.hotplug == nil {
		return "", errNoDevice
	}
	return asJSON(struct {
		Block     uint64 `json:"block_size_mib"`
		Total     uint64 `json:"total_size_mib"`
		Slot      uint64 `json:"slot_size_mib"`
		Plugged   uint64 `json:"plugged_size_mib"`
		Requested uint64 `json:"requested_size_mib"`
	}{
		p.vm.hotplug["block_size_mib"].(uint64), p.vm.hotplug["total_size_mib"].(uint64), p.vm.hotplug["slot_size_mib"].(uint64),
		p.run.requested, p.run.requested,
	}), nil
}
