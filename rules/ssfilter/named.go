package ssfilter

// Named lists the devices and the cgroups that x calls by their names. Where
// there is none of that name, no socket is in it, and each is outside of it.
func Named(x Expr) (devices, cgroups []string) {
	contains(x, func(x Expr) bool {
		switch x := x.(type) {
		case device:
			if x.name != "" {
				devices = append(devices, x.name)
			}
		case cgroup:
			cgroups = append(cgroups, string(x))
		}
		return false
	})
	return devices, cgroups
}

// AsksMark reports whether the truth of x may hang on the mark of a socket, which
// the kernel tells to CAP_NET_ADMIN only.
func AsksMark(x Expr) bool {
	return contains(x, func(x Expr) bool {
		_, ok := x.(mark)
		return ok
	})
}
