package nstest

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Loopback is lo, which is the first device of every namespace.
var Loopback netlink.Link = &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}}

// NewDevice makes a device of that name in the calling thread's namespace, and brings
// it up. It is an end of a veth pair, whose other end is called name-peer, and leads
// nowhere else.
func NewDevice(name string) (netlink.Link, error) {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, err
	}
	peer := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: pair.PeerName}}
	return pair, errors.Join(netlink.LinkSetUp(peer), netlink.LinkSetUp(pair))
}

// AddAddress gives a device an address, which can be used at once: nobody is asked
// whether he has it (RFC 4862, 5.4).
func AddAddress(device netlink.Link, addr netip.Prefix) error {
	a, err := netlink.ParseAddr(addr.String())
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return netlink.AddrReplace(device, a)
}
