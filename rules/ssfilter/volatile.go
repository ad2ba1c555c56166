package ssfilter

// Volatile reports whether the truth of x may change while the connection stays
// as it is and no segment arrives: a program may set SO_MARK and SO_BINDTODEVICE
// at any time, and an administrator may rename a device.
func Volatile(x Expr) bool {
	return contains(x, func(x Expr) bool {
		switch x.(type) {
		case device, mark:
			return true
		}
		return false
	})
}
