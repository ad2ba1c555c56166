package nstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Device is the index of a network device of the calling thread's namespace.
type Device uint32

// Loopback is lo, which is the first device of every namespace.
const Loopback Device = 1

// NewDevice makes a device of that name and brings it up. It is an end of a veth
// pair, whose other end is called name-peer, and leads nowhere else.
func NewDevice(name string) (Device, error) {
	peer := append(ifinfomsg(0, 0), attribute(unix.IFLA_IFNAME, cstring(name+"-peer"))...)
	kind := append(attribute(unix.IFLA_INFO_KIND, []byte("veth")),
		attribute(unix.IFLA_INFO_DATA, attribute(vethInfoPeer, peer))...)
	body := append(ifinfomsg(0, 0), attribute(unix.IFLA_IFNAME, cstring(name))...)
	body = append(body, attribute(unix.IFLA_LINKINFO, kind)...)
	if err := rtnetlink(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body); err != nil {
		return 0, fmt.Errorf("make the veth device %s: %w", name, err)
	}
	var device Device
	for _, end := range []string{name + "-peer", name} {
		var err error
		if device, err = deviceByName(end); err != nil {
			return 0, err
		}
		if err := rtnetlink(unix.RTM_SETLINK, 0, ifinfomsg(device, unix.IFF_UP)); err != nil {
			return 0, fmt.Errorf("bring device %s up: %w", end, err)
		}
	}
	return device, nil
}

// AddAltName gives the device one more name, as "ip link property add" does.
func (d Device) AddAltName(name string) error {
	names := attribute(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, attribute(unix.IFLA_ALT_IFNAME, cstring(name)))
	if err := rtnetlink(unix.RTM_NEWLINKPROP, unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(ifinfomsg(d, 0), names...)); err != nil {
		return fmt.Errorf("give device %d the name %s: %w", d, name, err)
	}
	return nil
}

// AddAddress gives the device an address, which can be used at once: nobody is
// asked whether he has it (RFC 4862, 5.4).
func (d Device) AddAddress(addr netip.Prefix) error {
	family := uint8(unix.AF_INET6)
	if addr.Addr().Is4() {
		family = unix.AF_INET
	}
	// struct ifaddrmsg
	body := []byte{family, uint8(addr.Bits()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE}
	body = binary.NativeEndian.AppendUint32(body, uint32(d))
	body = append(body, attribute(unix.IFA_LOCAL, addr.Addr().AsSlice())...)
	body = append(body, attribute(unix.IFA_ADDRESS, addr.Addr().AsSlice())...)
	err := rtnetlink(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
	if err != nil {
		return fmt.Errorf("add address %v to device %d: %w", addr, d, err)
	}
	return nil
}

// vethInfoPeer is VETH_INFO_PEER of include/uapi/linux/veth.h.
const vethInfoPeer = 1

func deviceByName(name string) (Device, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("find device %s: %w", name, err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("find device %s: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, fmt.Errorf("find device %s: %w", name, err)
	}
	return Device(req.Uint32()), nil
}

// ifinfomsg is a struct ifinfomsg that sets flags.
func ifinfomsg(device Device, flags uint32) []byte {
	b := binary.NativeEndian.AppendUint32(nil, unix.AF_UNSPEC)
	b = binary.NativeEndian.AppendUint32(b, uint32(device))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, flags) // the mask of what to change
}

func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(b)&3)...) // to the next multiple of 4
}

func cstring(s string) []byte { return append([]byte(s), 0) }

// rtnetlink makes one request and waits for its acknowledgement.
func rtnetlink(kind, flags uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer unix.Close(fd)
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	msg = binary.NativeEndian.AppendUint16(msg, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = append(msg, make([]byte, 8)...) // sequence number and port
	if err := unix.Sendto(fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to rtnetlink: %w", err)
	}
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return fmt.Errorf("receive from rtnetlink: %w", err)
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("rtnetlink answers what was not asked")
	}
	if errno := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
