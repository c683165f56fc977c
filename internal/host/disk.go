package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Disk is a disk as it is to be opened.
type Disk struct {
	Path string
	// Format is raw, qcow2, vhd or vhdx.
	Format           string
	ReadOnly, Direct bool
	// FixedVHD: of VHDs only those of fixed size are read.
	FixedVHD bool
}

// SectorSize is the least that a disk can have, in bytes.
const SectorSize = 512

// What disks begin with. A VHD has its footer of 512 bytes at the end, and one that
// grows has a copy at the beginning; the type is at byte 60 of it: 2 is fixed, 3
// grows, 4 keeps the difference to another (Virtual Hard Disk Image Format
// Specification, "Hard Disk Footer Format").
const (
	qcow2Magic = "QFI\xfb"
	vhdxMagic  = "vhdxfile"
	vhdMagic   = "conectix"
	vhdType    = 60
	vhdFixed   = 2
	vhdDiffers = 4
)

// CheckDisk says why a file is no disk of that format that may be opened as it is
// to be.
func CheckDisk(d Disk) error {
	f, info, err := open(d.Path, d.flags(), true)
	if err != nil {
		return err
	}
	defer f.Close()
	start, err := head(f, SectorSize)
	switch {
	case err != nil:
		return reason(err)
	case info.Mode().IsRegular() && info.Size() == 0:
		return fmt.Errorf("the file is empty")
	}
	if err := d.checkFormat(f, start); err != nil {
		return err
	}
	if d.Direct {
		return d.checkDirect()
	}
	return nil
}

func (d Disk) flags() int {
	if d.ReadOnly {
		return os.O_RDONLY
	}
	return os.O_RDWR
}

func (d Disk) checkFormat(f *os.File, start []byte) error {
	begins := ""
	for format, magic := range map[string]string{"qcow2": qcow2Magic, "vhdx": vhdxMagic, "vhd": vhdMagic} {
		if bytes.HasPrefix(start, []byte(magic)) {
			begins = format
		}
	}
	switch {
	case d.Format == "vhd":
		return d.checkVHD(f, start)
	case d.Format == "raw" && begins != "":
		return fmt.Errorf("this is a %s image; write :%s behind the path", begins, begins)
	case d.Format == "raw" && len(start) < SectorSize:
		return fmt.Errorf("the disk has %d bytes, which is less than a sector of %d", len(start), SectorSize)
	case d.Format != "raw" && d.Format != begins:
		return fmt.Errorf("not a %s image%s", d.Format, kindHint(start))
	}
	return nil
}

// checkVHD looks at the footer.
func (d Disk) checkVHD(f *os.File, start []byte) error {
	footer := make([]byte, SectorSize)
	end, err := f.Seek(-SectorSize, io.SeekEnd)
	if err == nil {
		_, err = f.ReadAt(footer, end)
	}
	if err != nil {
		return reason(err)
	}
	if !bytes.HasPrefix(footer, []byte(vhdMagic)) {
		return fmt.Errorf("not a vhd image: it does not end in a footer%s", kindHint(start))
	}
	switch kind := binary.BigEndian.Uint32(footer[vhdType:]); {
	case kind == vhdDiffers:
		return fmt.Errorf("a vhd that holds the difference to another, which is not read")
	case kind != vhdFixed && d.FixedVHD:
		return fmt.Errorf("a vhd that grows, of which this hypervisor reads only those of fixed size")
	}
	return nil
}

// checkDirect opens the disk once more as it is to be: some file systems cannot.
func (d Disk) checkDirect() error {
	f, err := os.OpenFile(d.Path, d.flags()|unix.O_DIRECT|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("the file system that it lies on has no direct access (O_DIRECT); remove direct")
	}
	if err != nil {
		return reason(err)
	}
	return f.Close()
}
