// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/huge_device: memory of a device that has none, mapped in entries of 1 GiB, as a driver for
 * passed-through devices does with large regions.
 */

#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>

/* Beyond all memory. */
#define FIRST_PFN ((64ULL << 30) >> PAGE_SHIFT)

static vm_fault_t huge_device_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	unsigned long offset = (vmf->address & PUD_MASK) - vmf->vma->vm_start;

	if (order != PUD_ORDER || vmf->address < vmf->vma->vm_start ||
	    (vmf->address & PUD_MASK) < vmf->vma->vm_start)
		return VM_FAULT_FALLBACK;
	return vmf_insert_pfn_pud(vmf, FIRST_PFN + (offset >> PAGE_SHIFT), false);
}

static vm_fault_t huge_device_fault(struct vm_fault *vmf)
{
	return VM_FAULT_SIGBUS;
}

static const struct vm_operations_struct huge_device_vm_ops = {
	.fault = huge_device_fault,
	.huge_fault = huge_device_huge_fault,
};

static int huge_device_mmap(struct file *file, struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &huge_device_vm_ops;
	return 0;
}

static const struct file_operations huge_device_fops = {
	.owner = THIS_MODULE,
	.mmap = huge_device_mmap,
};

static struct miscdevice huge_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "huge_device",
	.fops = &huge_device_fops,
};

module_misc_device(huge_device);

MODULE_DESCRIPTION("Memory of a device, mapped in entries of 1 GiB");
MODULE_LICENSE("GPL");
