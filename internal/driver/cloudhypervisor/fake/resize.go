package fake

import (
	"encoding/json"
	"fmt"
	"strconv"
)

const (
	dimmSize    = 128 << 20 // what is added by ACPI comes in multiples of it
	dimmSlots   = 8
	plugAligned = 128 << 20 // VIRTIO_MEM_ALIGN_SIZE
	plugBlock   = 2 << 20   // VIRTIO_MEM_DEFAULT_BLOCK_SIZE
)

func resizeData() structure {
	return structure{name: "VmResizeData", bare: true, fields: []field{opt("desired_vcpus", u32()), opt("desired_ram", u64()), opt("desired_balloon", u64())}}
}

// resize is vm.resize. What it asks of a VM that runs, the guest may do or not.
func (v *vmm) resize(body []byte) response {
	n, problem := parseJSON(body)
	var decoded any
	if problem == nil {
		decoded, problem = resizeData().decode(n)
	}
	if problem != nil {
		return v.refused(400, []string{"Failed to deserialize JSON", problem.complete(body)})
	}
	shown, _ := decoded.(*object)
	v.log.info("vmm/src/api/mod.rs:1557", "API request event: VmResize "+debug(shown))
	var asked struct {
		VCPUs   *uint32 `json:"desired_vcpus"`
		RAM     *uint64 `json:"desired_ram"`
		Balloon *uint64 `json:"desired_balloon"`
	}
	text, err := json.Marshal(shown)
	if err == nil {
		err = json.Unmarshal(text, &asked)
	}
	if err != nil {
		return v.failed(fail("the stand-in cannot read what it has accepted: " + err.Error()))
	}
	const what = "The VM could not be resized"
	if v.config == nil {
		return v.failed(notCreated().under(what))
	}
	if v.machine == nil {
		v.config.store(asked.VCPUs, asked.RAM, asked.Balloon)
		return answer(204, nil)
	}
	v.events.emit("vm", "resizing", nil)
	if f := v.machine.resize(asked.VCPUs, asked.RAM, asked.Balloon); f != nil {
		v.log.error("vmm", "vmm/src/lib.rs:2590", "Error when resizing VM: "+f.chain[len(f.chain)-1])
		return v.failed(f.under(what))
	}
	v.events.emit("vm", "resized", nil)
	return answer(204, nil)
}

// store is a resize of a VM that does not run.
func (v *vm) store(vcpus *uint32, ram, balloon *uint64) {
	if vcpus != nil {
		v.setNumber("cpus", "boot_vcpus", uint64(*vcpus))
		v.set.CPUs.Boot = *vcpus
	}
	if ram != nil {
		v.setNumber("memory", "size", *ram)
		v.set.Memory.Size = *ram
	}
	if balloon != nil && v.set.Balloon != nil {
		v.setNumber("balloon", "size", *balloon)
		v.set.Balloon.Size = *balloon
	}
}

func (v *vm) setNumber(of, name string, value uint64) {
	shape, _ := vmConfig().find(of).shape.(structure)
	v.shown.get(of).(*object).insert(name, json.Number(strconv.FormatUint(value, 10)), shape)
}

// resize does one after the other; what was done before a refusal stays.
func (m *machine) resize(vcpus *uint32, ram, balloon *uint64) *failure {
	config := m.vmm.config
	if vcpus != nil {
		switch {
		case *vcpus == 0:
			return fail("Error from CPU manager", "Requested zero vCPUs")
		case *vcpus > m.set.CPUs.Max:
			return fail("Error from CPU manager", "Requested vCPUs exceed maximum")
		}
		config.store(vcpus, nil, nil)
	}
	if ram != nil {
		if words := m.resizeMemory(*ram); words != nil {
			return words.under("Memory manager error")
		}
		if m.set.Memory.HotplugMethod == "Acpi" {
			config.store(nil, ram, nil)
		} else {
			config.plugged(*ram - m.set.Memory.Size)
		}
	}
	if balloon != nil {
		if m.set.Balloon == nil {
			m.vmm.log.warn("vmm/src/device_manager.rs:5474", "No balloon setup: Can't resize the balloon")
			return fail("Error from device manager", "Missing virtio-balloon, can't proceed as expected")
		}
		config.store(nil, nil, balloon)
		m.inflated = *balloon / pageSize * pageSize
	}
	return nil
}

// plugged notes what virtio-mem is asked for beyond the memory at the start.
func (v *vm) plugged(size uint64) {
	memory := v.shown.get("memory").(*object)
	if size == 0 {
		memory.remove("hotplugged_size")
		v.set.Memory.Hotplugged = nil
		return
	}
	v.setNumber("memory", "hotplugged_size", size)
	v.set.Memory.Hotplugged = &size
}

func (m *machine) resizeMemory(size uint64) *failure {
	set := &m.set.Memory
	if set.HotplugMethod == "Acpi" {
		return m.addDIMM(size)
	}
	if size < set.Size {
		return fail(fmt.Sprintf("Invalid resize request: desired_size = %d below boot size = %d", size, set.Size))
	}
	if set.HotplugSize == nil {
		return fail("No virtio-mem resizing handler found")
	}
	words := ""
	switch more := size - set.Size; {
	case more == m.requested:
		words = fmt.Sprintf("new size 0x%x and requested_size are identical", more)
	case more > *set.HotplugSize:
		words = fmt.Sprintf("new size 0x%x is bigger than region_size 0x%x", more, *set.HotplugSize)
	case more%plugBlock != 0:
		words = fmt.Sprintf("new size 0x%x is not aligned on block_size 0x%x", more, uint64(plugBlock))
	default:
		m.requested = more
		return nil
	}
	return fail("Failed to virtio-mem resize", "Resize invalid argument", "Failed to update virtio configuration: ResizeError("+words+")")
}

// addDIMM adds memory for good. Less than there is, is nothing to do.
func (m *machine) addDIMM(size uint64) *failure {
	if size <= m.memory {
		return nil
	}
	more, room := size-m.memory, uint64(0)
	if m.set.Memory.HotplugSize != nil {
		room = *m.set.Memory.HotplugSize
	}
	switch {
	case m.dimms == dimmSlots:
		return fail("No ACPI slot available")
	case more%dimmSize != 0:
		return fail("The requested hotplug memory addition is not a valid size")
	case m.added+more > room:
		return fail("Not enough space in the hotplug RAM region")
	}
	m.dimms++
	m.added += more
	m.memory = size
	return nil
}

// actualSize is the memory that the guest has, as vm.info tells it.
func (v *vmm) actualSize() uint64 {
	size := v.config.set.Memory.Size
	if m := v.machine; m != nil && m.guest != nil && m.guest.takes.Load() {
		size -= min(size, m.inflated)
		size += m.requested
	}
	return size
}
