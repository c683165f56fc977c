package credential

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// Items returns what the arithmetic of package rule needs to know.
func Items(creds []Credential) []rule.Item {
	items := make([]rule.Item, len(creds))
	for i, c := range creds {
		items[i] = rule.Item{Name: c.Guest, Size: c.Value.Len()}
	}
	return items
}

// PackSMBIOS puts credentials into SMBIOS structures of type 11, each at most
// maxStructure bytes long ([rule.SMBIOSPage] for a guest with a systemd below
// 257), in the layout of [rule.LayoutSMBIOS]. The result is as secret as its
// input, and the caller's to wipe. Nothing is left out: what does not fit is a
// [rule.Refusal] in the error.
func PackSMBIOS(creds []Credential, maxStructure int) ([]*secret.Value, error) {
	items := Items(creds)
	layout, err := rule.LayoutSMBIOS(items, maxStructure)
	if err != nil {
		return nil, err
	}
	packed := make([]*secret.Value, 0, len(layout.Structures))
	for i, members := range layout.Structures {
		v, err := packStructure(creds, items, members, rule.SMBIOSFirstHandle+i)
		if err != nil {
			for _, v := range packed {
				v.Wipe()
			}
			return nil, fmt.Errorf("packing credentials into SMBIOS structures: %w", err)
		}
		packed = append(packed, v)
	}
	return packed, nil
}

func packStructure(creds []Credential, items []rule.Item, members []int, handle int) (*secret.Value, error) {
	size := rule.SMBIOSHeader + 1
	for _, i := range members {
		size += rule.SMBIOSSize(len(items[i].Name), items[i].Size)
	}
	b := secret.NewBuilder(size)
	defer b.Wipe()
	b.Append(11, rule.SMBIOSHeader)
	b.Append(binary.LittleEndian.AppendUint16(nil, uint16(handle))...)
	b.Append(byte(len(members)))
	for _, i := range members {
		b.AppendString(rule.SMBIOSPrefix + creds[i].Guest + "=")
		b.AppendBase64(creds[i].Value)
		b.Append(0)
	}
	b.Append(0)
	v, err := b.Value()
	if err == nil && v.Len() != size { // a value was changed meanwhile
		got := v.Len()
		v.Wipe()
		return nil, fmt.Errorf("a structure of %d bytes came out with %d", size, got)
	}
	return v, err
}

// AppendOEMStrings adds a JSON list with the string of a DMI type 11 structure for
// each credential, for a hypervisor that makes the structure itself.
func AppendOEMStrings(b *secret.Builder, creds []Credential) {
	b.Append('[')
	for i, c := range creds {
		if i > 0 {
			b.Append(',')
		}
		name, _ := json.Marshal(rule.SMBIOSPrefix + c.Guest + "=") // strings always encode
		b.Append(name[:len(name)-1]...)
		b.AppendBase64(c.Value)
		b.Append('"')
	}
	b.Append(']')
}
