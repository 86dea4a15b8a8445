// SPDX-License-Identifier: GPL-2.0
/*
 * Reads memory of the process that loads this, in each of the ways by which a module could get at a
 * guest's page, and tells how long that takes. For the benchmark only: docs/performance.md says
 * what speaks against a way.
 *
 * Write the name of a way to the parameter "way", and read the results from the others.
 */

#include <linux/file.h>
#include <linux/kvm_host.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

static int fd = -1;
module_param(fd, int, 0);
MODULE_PARM_DESC(fd, "File descriptor of the VM");

static unsigned long address;
module_param(address, ulong, 0600);
MODULE_PARM_DESC(address, "Where the memory is in the process");

static unsigned long gpa;
module_param(gpa, ulong, 0600);
MODULE_PARM_DESC(gpa, "Where the memory is in the guest");

static unsigned long size;
module_param(size, ulong, 0600);
MODULE_PARM_DESC(size, "How many bytes are read");

static unsigned long pages_read;
module_param(pages_read, ulong, 0400);
MODULE_PARM_DESC(pages_read, "Result: how many pages were present");

static unsigned long sum;
module_param(sum, ulong, 0400);
MODULE_PARM_DESC(sum, "Result: a sum of all words, in order");

static unsigned long nanoseconds;
module_param(nanoseconds, ulong, 0400);
MODULE_PARM_DESC(nanoseconds, "Result: how long it took");

/* As many as the search holds at a time. */
#define WINDOW_PAGES 64

static struct file *file;
static typeof(&kvm_read_guest_page) read_guest_page;
static struct page *pages[WINDOW_PAGES];
static void *buffer;

/* What is done with each page, the same in each way. */
static noinline void add_page(const void *page)
{
	const u64 *word = page, *end = page + PAGE_SIZE;
	u64 page_sum = 0;

	while (word < end)
		page_sum += READ_ONCE(*word++);
	sum = sum * 31 + page_sum;
	pages_read++;
}

/* Pages of one folio give up their references at once, as in the module. */
static void put_pages(unsigned int count)
{
	unsigned int first, next;

	for (first = 0; first < count; first = next) {
		struct folio *folio = page_folio(pages[first]);

		next = first + 1;
		while (next < count && page_folio(pages[next]) == folio)
			next++;
		folio_put_refs(folio, next - first);
	}
}

static int add_linear(unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		add_page(page_address(pages[i]));
	return 0;
}

static int add_vmapped(unsigned int count)
{
	void *mapping = vmap(pages, count, VM_MAP, PAGE_KERNEL_RO);
	unsigned int i;

	if (!mapping)
		return -ENOMEM;
	for (i = 0; i < count; i++)
		add_page(mapping + i * PAGE_SIZE);
	vunmap(mapping);
	return 0;
}

static int add_copied(unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		memcpy(buffer, page_address(pages[i]), PAGE_SIZE);
		add_page(buffer);
	}
	return 0;
}

/* Holds pages window by window, as the module does, and has @add read them. */
static int hold(int (*add)(unsigned int count))
{
	unsigned long at = address, end = address + size;
	int got, ret;

	while (at < end) {
		got = get_user_pages_fast_only(at, min((end - at) / PAGE_SIZE, WINDOW_PAGES), 0,
					       pages);
		if (got <= 0) {
			at += PAGE_SIZE;
			continue;
		}
		ret = add(got);
		put_pages(got);
		if (ret)
			return ret;
		at += got * PAGE_SIZE;
	}
	return 0;
}

static int read_linear(void)
{
	return hold(add_linear);
}

static int read_vmap(void)
{
	return hold(add_vmapped);
}

static int read_copy(void)
{
	return hold(add_copied);
}

static int read_by_kvm(void)
{
	struct kvm *kvm = file->private_data;
	unsigned long at;
	int idx;

	idx = srcu_read_lock(&kvm->srcu);
	for (at = gpa; at < gpa + size; at += PAGE_SIZE)
		if (!read_guest_page(kvm, gpa_to_gfn(at), buffer, 0, PAGE_SIZE))
			add_page(buffer);
	srcu_read_unlock(&kvm->srcu, idx);
	return 0;
}

static int read_nofault(void)
{
	unsigned long at;

	for (at = address; at < address + size; at += PAGE_SIZE)
		if (!copy_from_user_nofault(buffer, (void __user *)at, PAGE_SIZE))
			add_page(buffer);
	return 0;
}

/* The lock of the page table keeps the page. */
static int add_entry(pte_t *ptep, unsigned long addr, void *data)
{
	pte_t pte = ptep_get(ptep);

	if (pte_present(pte) && !pte_special(pte))
		add_page(page_address(pte_page(pte)));
	return 0;
}

static int read_apply(void)
{
	int ret;

	mmap_read_lock(current->mm);
	ret = apply_to_page_range(current->mm, address, size, add_entry, NULL);
	mmap_read_unlock(current->mm);
	return ret;
}

static const struct {
	const char *name;
	int (*read)(void);
} ways[] = {
	{ "linear", read_linear },
	{ "vmap", read_vmap },
	{ "copy", read_copy },
	{ "kvm_read_guest_page", read_by_kvm },
	{ "copy_from_user_nofault", read_nofault },
	{ "apply_to_page_range", read_apply },
};

static int read_by_way(const char *name, const struct kernel_param *param)
{
	unsigned int i;
	u64 begun;
	int ret;

	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		if (!sysfs_streq(name, ways[i].name))
			continue;
		pages_read = 0;
		sum = 0;
		begun = ktime_get_ns();
		ret = ways[i].read();
		nanoseconds = ktime_get_ns() - begun;
		return ret;
	}
	return -EINVAL;
}

static const struct kernel_param_ops way_ops = { .set = read_by_way };
module_param_cb(way, &way_ops, NULL, 0200);
MODULE_PARM_DESC(way, "Reads the memory in this way");

static int __init reach_init(void)
{
	buffer = kmalloc(PAGE_SIZE, GFP_KERNEL);
	if (!buffer)
		return -ENOMEM;
	file = fget(fd);
	if (!file) {
		kfree(buffer);
		return -EBADF;
	}
	/* It is exported to kvm-amd and kvm-intel only, which symbol_get() does not look at. */
	read_guest_page = symbol_get(kvm_read_guest_page);
	if (!read_guest_page) {
		fput(file);
		kfree(buffer);
		return -ENOENT;
	}
	return 0;
}

static void __exit reach_exit(void)
{
	symbol_put(kvm_read_guest_page);
	fput(file);
	kfree(buffer);
}

module_init(reach_init);
module_exit(reach_exit);
MODULE_DESCRIPTION("Test: compares the ways to reach a guest's page");
MODULE_LICENSE("GPL");
