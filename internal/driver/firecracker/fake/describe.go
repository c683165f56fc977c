package fake

import "encoding/json"

// json is the answer to GET /vm/config, in the order of VmmConfig.
func (v *resources) json() string {
	drives := []json.RawMessage{}
	for _, d := range v.drives {
		drives = append(drives, ordered(driveSchema(), d.config, map[string]any{"is_read_only": false, "io_engine": "Sync"}))
	}
	config := struct {
		Balloon  json.RawMessage   `json:"balloon"`
		Drives   []json.RawMessage `json:"drives"`
		Boot     json.RawMessage   `json:"boot-source"`
		CPU      any               `json:"cpu-config"`
		Logger   any               `json:"logger"`
		Machine  json.RawMessage   `json:"machine-config"`
		Metrics  any               `json:"metrics"`
		MMDS     any               `json:"mmds-config"`
		Networks []json.RawMessage `json:"network-interfaces"`
		Vsock    json.RawMessage   `json:"vsock"`
		Entropy  json.RawMessage   `json:"entropy"`
		Pmem     []any             `json:"pmem"`
		Memory   json.RawMessage   `json:"memory-hotplug"`
	}{
		Drives: drives, Machine: json.RawMessage(v.machine.json()), Networks: []json.RawMessage{}, Pmem: []any{},
		Boot: ordered(bootSchema(), map[string]any{}, map[string]any{"kernel_image_path": ""}),
	}
	if v.boot != nil {
		config.Boot = ordered(bootSchema(), v.boot.config, nil)
	}
	if v.vsock != nil {
		s := vsockSchema()
		s.fields = s.fields[1:] // the deprecated name is not told
		config.Vsock = ordered(s, v.vsock.config, nil)
	}
	if v.entropy != nil {
		config.Entropy = ordered(entropySchema(), v.entropy, nil)
	}
	for _, n := range v.networks {
		config.Networks = append(config.Networks, ordered(networkSchema(), n.config, nil))
	}
	if v.balloon != nil {
		config.Balloon = ordered(balloonSchema(), v.balloon, nil)
	}
	if v.hotplug != nil {
		config.Memory = ordered(hotplugSchema(), v.hotplug, nil)
	}
	return asJSON(config)
}

// ordered writes the fields of a body in the order of their declaration, with
// what stands for absent ones.
func ordered(s *schema, v, absent map[string]any) json.RawMessage {
	b := []byte("{")
	for i, f := range s.fields {
		value := v[f.name]
		if value == nil {
			value = absent[f.name]
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, asJSON(f.name)+":"...)
		if sub, ok := value.(map[string]any); ok && f.of != nil {
			b = append(b, ordered(f.of, sub, nil)...)
			continue
		}
		b = append(b, asJSON(value)...)
	}
	return append(b, '}')
}
