package rule

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A guest's systemd reads credentials from the strings of the SMBIOS
// structures of type 11. The layout of one structure:
//
//	byte 0     0x0B, the type
//	byte 1     0x05, the length of the formatted part
//	byte 2-3   the handle, little endian, unique in the table
//	byte 4     the number of strings
//	byte 5…    each string with a NUL, then one more NUL
const (
	// SMBIOSPrefix begins each string; NAME=BASE64 follows.
	SMBIOSPrefix = "io.systemd.credential.binary:"
	// SMBIOSHeader is the formatted part, in bytes.
	SMBIOSHeader = 5
	// SMBIOSMaxStrings is the number of strings that one structure can count.
	SMBIOSMaxStrings = 255
	// SMBIOSPage is what a guest with a systemd below 257 reads of one
	// structure. It drops the rest without a word.
	SMBIOSPage = 4096
	// SMBIOSMaxStructure is the size that the table's header can state.
	SMBIOSMaxStructure = 65535
	// SMBIOSFirstHandle is the handle of the first structure; the others count
	// up from it.
	SMBIOSFirstHandle = 0xE100
	// SMBIOSMaxHandle is the last one that is not reserved.
	SMBIOSMaxHandle = 0xFEFF
)

// smbiosFrame is what a structure takes besides its strings.
const smbiosFrame = SMBIOSHeader + 1

// Item is one credential as far as arithmetic needs it.
type Item struct {
	Name string
	// Size is that of the value in bytes.
	Size int
}

// SMBIOSSize returns the bytes that a credential takes in a structure, its NUL
// included.
func SMBIOSSize(nameLen, valueLen int) int {
	return len(SMBIOSPrefix) + nameLen + len("=") + base64.StdEncoding.EncodedLen(valueLen) + 1
}

// Refusal says why a channel cannot carry one credential.
type Refusal struct {
	Name string
	Why  string
}

// Error returns both.
func (r *Refusal) Error() string { return fmt.Sprintf("credential %s: %s", r.Name, r.Why) }

// SMBIOSLayout says which credential goes into which structure.
type SMBIOSLayout struct {
	// Structures holds the indexes of the items of each structure.
	Structures [][]int
	// Bytes is the size of all structures together.
	Bytes int
}

// LayoutSMBIOS distributes credentials over structures of at most maxStructure
// bytes, the final NUL included, the largest first, each into the first
// structure with room. Equal input gives equal output. The error joins a
// [Refusal] for each item that fits nowhere.
func LayoutSMBIOS(items []Item, maxStructure int) (SMBIOSLayout, error) {
	if maxStructure > SMBIOSMaxStructure {
		return SMBIOSLayout{}, fmt.Errorf("an SMBIOS structure has at most %d bytes, not %d", SMBIOSMaxStructure, maxStructure)
	}
	var (
		errs   []error
		order  []int
		layout SMBIOSLayout
		sizes  []int // of the structures
	)
	for i, it := range items {
		if err := smbiosFits(it, maxStructure); err != nil {
			errs = append(errs, err)
			continue
		}
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(
			cmp.Compare(SMBIOSSize(len(items[b].Name), items[b].Size), SMBIOSSize(len(items[a].Name), items[a].Size)),
			strings.Compare(items[a].Name, items[b].Name))
	})
	for _, i := range order {
		need := SMBIOSSize(len(items[i].Name), items[i].Size)
		at := 0
		for at < len(sizes) && (sizes[at]+need > maxStructure || len(layout.Structures[at]) >= SMBIOSMaxStrings) {
			at++
		}
		if at == len(sizes) {
			sizes = append(sizes, smbiosFrame)
			layout.Structures = append(layout.Structures, nil)
		}
		sizes[at] += need
		layout.Structures[at] = append(layout.Structures[at], i)
	}
	if n := len(sizes); n > SMBIOSMaxHandle-SMBIOSFirstHandle+1 {
		errs = append(errs, fmt.Errorf("%d SMBIOS structures would be needed, there are handles for %d", n, SMBIOSMaxHandle-SMBIOSFirstHandle+1))
	}
	for _, n := range sizes {
		layout.Bytes += n
	}
	if err := errors.Join(errs...); err != nil {
		return SMBIOSLayout{}, err
	}
	return layout, nil
}

// smbiosFits checks one credential by itself.
func smbiosFits(it Item, maxStructure int) error {
	if err := Name(it.Name); err != nil {
		return &Refusal{it.Name, err.Error()}
	}
	if strings.Contains(it.Name, "=") {
		return &Refusal{it.Name, `a name with "=" cannot go over SMBIOS, where "=" ends the name`}
	}
	if it.Size < 0 || it.Size > MaxSize {
		return &Refusal{it.Name, fmt.Sprintf("it has %d bytes, at most %d are possible", it.Size, MaxSize)}
	}
	if need := smbiosFrame + SMBIOSSize(len(it.Name), it.Size); need > maxStructure {
		return &Refusal{it.Name, fmt.Sprintf("its %d bytes need an SMBIOS structure of %d bytes, at most %d are possible", it.Size, need, maxStructure)}
	}
	return nil
}
