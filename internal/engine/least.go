package engine

import "slices"

// keepLeast puts v in its place in a sorted list of the n least.
func keepLeast[T any](list []T, n int, v T, compare func(a, b T) int) []T {
	if len(list) == n && compare(v, list[n-1]) >= 0 {
		return list
	}
	at, _ := slices.BinarySearchFunc(list, v, compare)
	list = slices.Insert(list, at, v)
	return list[:min(len(list), n)]
}
