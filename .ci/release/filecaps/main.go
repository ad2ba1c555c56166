// Command filecaps lets a program have capabilities when who is not root runs it, as
// setcap(8) does with +p, which the image that builds ours has not:
//
//	filecaps FILE net_admin sys_admin
package main

import (
	"encoding/binary"
	"log"
	"os"

	"golang.org/x/sys/unix"
)

var bits = map[string]int{
	"bpf": unix.CAP_BPF, "dac_read_search": unix.CAP_DAC_READ_SEARCH, "net_admin": unix.CAP_NET_ADMIN,
	"sys_admin": unix.CAP_SYS_ADMIN, "sys_ptrace": unix.CAP_SYS_PTRACE,
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("filecaps: ")
	if len(os.Args) < 3 {
		log.Fatal("usage: filecaps FILE CAPABILITY...")
	}
	var permitted uint64
	for _, name := range os.Args[2:] {
		bit, known := bits[name]
		if !known {
			log.Fatalf("%q is no capability that sockdog wants", name)
		}
		permitted |= 1 << bit
	}
	// struct vfs_cap_data of linux/capability.h, revision 2: for each half of the sets what is
	// permitted, then what is inheritable. The revision's lowest bit would say "effective".
	data := binary.LittleEndian.AppendUint32(nil, 0x02000000)
	for _, half := range []uint32{uint32(permitted), uint32(permitted >> 32)} {
		data = binary.LittleEndian.AppendUint32(data, half)
		data = binary.LittleEndian.AppendUint32(data, 0)
	}
	if err := unix.Setxattr(os.Args[1], "security.capability", data, 0); err != nil {
		log.Fatalf("set the capabilities of %s: %v", os.Args[1], err)
	}
}
